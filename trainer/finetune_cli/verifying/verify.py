"""``ftj verify``: checks a published model with the public key of the operator."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune_api.contracts.provenance.attestation import Statement
from finetune_cli.errors import CommandFailed
from finetune_cli.options import Format, Output
from finetune_cli.verifying import base as tuned_from
from finetune_cli.verifying import folder, signature
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.signatures.statements import PublicKey


def run(
    context: typer.Context,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="folder with the files of the model, oci://HOST/REPOSITORY@sha256:DIGEST, or "
            "s3://BUCKET/FOLDER",
        ),
    ],
    key: Annotated[
        Path,
        typer.Option(metavar="PATH", help="file with the public key of the operator in PEM format"),
    ],
    ca: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="file with additional CA certificates of a registry or an S3 service",
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL of the S3 service, if it is not Amazon S3"),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="region of the S3 service, if AWS_REGION is not set"),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="REPO",
            help="base model from which the model must be tuned, such as org/name, or "
            "org/name@COMMIT",
        ),
    ] = None,
    output: Output = Format.TEXT,
) -> int:
    """Print the statements to stdout. Raise NotVerified or CommandFailed."""
    public = signature.public_key(key)
    if reference.startswith("oci://"):
        statements, checked = _image(reference, public, ca, context.obj)
    elif reference.startswith("s3://"):
        statements, checked = _bucket(reference, public, endpoint, region, ca, context.obj)
    elif reference.startswith("hf://"):
        raise CommandFailed(
            f"{reference} is on a hub, from which ftj verify does not read: run hf download "
            f"{reference.removeprefix('hf://')} --revision COMMIT --local-dir FOLDER, and name the "
            "folder"
        )
    else:
        statements, checked = _folder(Path(reference), public)
    if base is not None:
        tuned_from.check(statements, base)
    # ASCII only: a statement may contain texts of a tenant.
    for printed in [statements] if output is Format.JSON else statements:
        print(json.dumps(printed, indent=2))
    print(f"verified: the key has signed the statement, and {checked} match", file=sys.stderr)
    return 0


def _image(
    reference: str, key: PublicKey, ca: Path | None, stop: StopRequest
) -> tuple[list[Statement], str]:
    from finetune_cli.verifying import image

    repository, digest = image.split(reference)
    with image.connected(repository, stop, ca) as registry:
        statements, count = image.check(registry, digest, key)
    return statements, f"all {count} blobs"


def _bucket(
    reference: str,
    key: PublicKey,
    endpoint: str | None,
    region: str | None,
    ca: Path | None,
    stop: StopRequest,
) -> tuple[list[Statement], str]:
    from finetune_cli.verifying import bucket

    service = bucket.Service(endpoint=endpoint, region=region, ca=ca)
    statements, count = bucket.check(reference, service, key, stop)
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
