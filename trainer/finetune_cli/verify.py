"""``ftj verify``: checks a published model with the public key of the operator."""

import argparse
import json
import sys
from pathlib import Path

from finetune_cli.errors import CommandFailed
from finetune_cli.verifying import base, folder, signature
from finetune_trainer.runtime.signals import StopRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("reference", metavar="REF", help="folder with the files of the model")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="PATH",
        help="file with the public key of the operator in PEM format",
    )
    parser.add_argument(
        "--base",
        metavar="REPO",
        help="base model from which the model must be tuned, such as org/name, or org/name@COMMIT",
    )


def run(options: argparse.Namespace, _: StopRequest) -> int:
    """Print the statements to stdout. Raise NotVerified or CommandFailed."""
    key = signature.public_key(options.key)
    place = Path(options.reference)
    if not place.is_dir():
        raise CommandFailed(f"{place} is no folder: download the model, and name its folder")
    statements = {
        name: signature.checked(document, key, name=name)
        for name, document in folder.documents(place).items()
    }
    try:
        count = folder.check(place, statements)
    except OSError as error:
        raise CommandFailed(f"{error.filename}: {error.strerror}: make it readable") from error
    if options.base is not None:
        base.check(statements.values(), options.base)
    for statement in statements.values():
        # ASCII only: a statement may contain texts of a tenant.
        print(json.dumps(statement, indent=2))
    print(
        f"verified: the key has signed {', '.join(statements)}, and all {count} files match",
        file=sys.stderr,
    )
    return 0
