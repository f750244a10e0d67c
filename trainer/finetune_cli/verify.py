"""``ftj verify``: checks a published model with the public key of the operator."""

import argparse
import json
import sys
from pathlib import Path

from finetune_api.contracts.attestation import Statement
from finetune_cli.errors import CommandFailed
from finetune_cli.verifying import base, folder, signature
from finetune_cli.verifying.signature import PublicKey
from finetune_trainer.runtime.signals import StopRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "reference",
        metavar="REF",
        help="folder with the files of the model, oci://HOST/REPOSITORY@sha256:DIGEST, or "
        "s3://BUCKET/FOLDER",
    )
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="PATH",
        help="file with the public key of the operator in PEM format",
    )
    parser.add_argument(
        "--ca",
        type=Path,
        metavar="PATH",
        help="file with additional CA certificates of a registry or an S3 service",
    )
    parser.add_argument(
        "--endpoint", metavar="URL", help="URL of the S3 service, if it is not Amazon S3"
    )
    parser.add_argument(
        "--region", metavar="NAME", help="region of the S3 service, if AWS_REGION is not set"
    )
    parser.add_argument(
        "--base",
        metavar="REPO",
        help="base model from which the model must be tuned, such as org/name, or org/name@COMMIT",
    )


def run(options: argparse.Namespace, stop: StopRequest) -> int:
    """Print the statements to stdout. Raise NotVerified or CommandFailed."""
    key = signature.public_key(options.key)
    if options.reference.startswith("oci://"):
        statements, checked = _image(options, key, stop)
    elif options.reference.startswith("s3://"):
        statements, checked = _bucket(options, key, stop)
    else:
        statements, checked = _folder(Path(options.reference), key)
    if options.base is not None:
        base.check(statements, options.base)
    for statement in statements:
        # ASCII only: a statement may contain texts of a tenant.
        print(json.dumps(statement, indent=2))
    print(f"verified: the key has signed the statement, and {checked} match", file=sys.stderr)
    return 0


def _image(
    options: argparse.Namespace, key: PublicKey, stop: StopRequest
) -> tuple[list[Statement], str]:
    from finetune_cli.verifying import image

    repository, digest = image.split(options.reference)
    with image.connected(repository, stop, options.ca) as registry:
        statements, count = image.check(registry, digest, key)
    return statements, f"all {count} blobs"


def _bucket(
    options: argparse.Namespace, key: PublicKey, stop: StopRequest
) -> tuple[list[Statement], str]:
    from finetune_cli.verifying import bucket

    service = bucket.Service(endpoint=options.endpoint, region=options.region, ca=options.ca)
    statements, count = bucket.check(options.reference, service, key, stop)
    return statements, f"all {count} files"


def _folder(place: Path, key: PublicKey) -> tuple[list[Statement], str]:
    if not place.is_dir():
        raise CommandFailed(
            f"{place} is no folder: name the folder with the files of the model, an image as "
            "oci://HOST/REPOSITORY@sha256:DIGEST, or a folder in a bucket as s3://BUCKET/FOLDER"
        )
    statements = {
        name: signature.checked(document, key, name=name)
        for name, document in folder.documents(place).items()
    }
    try:
        count = folder.check(place, statements)
    except OSError as error:
        raise CommandFailed(f"{error.filename}: {error.strerror}: make it readable") from error
    return list(statements.values()), f"all {count} files"
