"""A folder with a published model in a bucket of an S3 service.

Objects are compared while they are read: none is stored on this machine, or held in memory.
"""

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import MANIFEST, Statement
from finetune_api.safety.redaction import one_line
from finetune_cli.errors import CommandFailed
from finetune_cli.verifying import files, signature
from finetune_cli.verifying.failures import Code, fail
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.publishing.s3 import client as s3
from finetune_trainer.publishing.s3 import errors
from finetune_trainer.publishing.s3.read_back import read_back
from finetune_trainer.publishing.target_errors import TargetRejected
from finetune_trainer.publishing.transfer import Transfer
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.signatures.statements import PublicKey
from finetune_trainer.sources import trust

PREFIX = "s3://"
REFERENCE = re.compile(r"s3://([\w.-]{3,63})/+([^/].*)")
MOST_OBJECTS = 10_000
"""Objects of a folder that are listed; models have at most some hundreds."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """An S3 service. None stands for what the user has configured for the AWS tools."""

    endpoint: str | None
    region: str | None
    ca: Path | None
    """File with additional CA certificates."""


def check(
    reference: str, service: Service, key: PublicKey, stop: StopRequest
) -> tuple[list[Statement], int]:
    """Return the signed statements about a folder, and the number of its files.

    Raise NotVerified or CommandFailed.
    """
    matched = REFERENCE.fullmatch(reference)
    if matched is None:
        raise CommandFailed(
            f"{reference} does not name a folder in a bucket: write it as s3://BUCKET/FOLDER, as "
            "status.publish of the FineTuneJob does"
        )
    if service.endpoint is not None and not re.match("https?://[^/]", service.endpoint):
        raise CommandFailed(f"--endpoint {service.endpoint} is no URL: write https://HOST")
    transfer = Transfer(progress=Progress("verify"), stop=stop, done=0, total=0)
    with _named(reference), _connected(service) as client:
        return _check(_Folder(client, matched[1], matched[2].rstrip("/"), transfer), key)


def _check(folder: "_Folder", key: PublicKey) -> tuple[list[Statement], int]:
    sizes = folder.sizes()
    documents = {name: folder.read(name) for name in attestation.FILES if name in sizes}
    if not documents:
        files.fail_unsigned(folder)
    statements = {
        name: signature.checked(document, key, name=name) for name, document in documents.items()
    }
    listed = folder.read(MANIFEST) if MANIFEST in sizes else None
    expected = files.expected(statements, listed)
    files.require_own_content(folder.name, listed)
    digests = {}
    for name, size in sizes.items():
        if name not in statements:
            digest = next((named[name] for named in expected.values() if name in named), None)
            digests[name] = folder.compared(name, size, digest)
    files.compare(expected, digests)
    return list(statements.values()), len(digests)


class _Folder:
    """The objects below a prefix, by their names relative to it."""

    def __init__(self, client: Any, bucket: str, prefix: str, transfer: Transfer) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/"
        self._transfer = transfer

    def __str__(self) -> str:
        return f"{PREFIX}{self._bucket}/{self._prefix}"

    @property
    def name(self) -> str:
        """The last part of the prefix."""
        return self._prefix.rstrip("/").rpartition("/")[2]

    def sizes(self) -> dict[str, int]:
        """Return the size of each object by its name. Raise NotVerified if there is none."""
        sizes: dict[str, int] = {}
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        for page in pages:
            for entry in page.get("Contents", ()):
                name = str(entry["Key"]).removeprefix(self._prefix)
                # Consoles create an empty object for a folder; downloads leave it out.
                if entry["Size"] or (name and not name.endswith("/")):
                    sizes[name] = entry["Size"]
            self._transfer.check()
            if len(sizes) > MOST_OBJECTS:
                fail(
                    Code.EXTRA,
                    f"{self} has more than {MOST_OBJECTS:,} objects, so it is no published model: "
                    "correct the reference",
                )
        if not sizes:
            fail(Code.MISSING, f"{self} does not exist: correct the reference")
        return sizes

    def read(self, name: str) -> bytes:
        """Return the content of a small object, without the end of a longer one."""
        answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
        with closing(answer["Body"]) as body:
            content: bytes = body.read(attestation.LONGEST)
        return content

    def compared(self, name: str, size: int, digest: str | None) -> str:
        """Return the digest if the object has it; otherwise a text that is none.

        digest: None for an object that is not expected, and so is not read.
        """
        if digest is None:
            return "not read"
        key = self._prefix + name
        try:
            read_back(self._client, self._bucket, key, size, digest, self._transfer)
        except TargetRejected:
            return "another"
        return digest


@contextmanager
def _connected(service: Service) -> Iterator[Any]:
    """Yield a client with the credentials of the user's environment; anonymous without any."""
    from botocore.session import get_session

    session = get_session()
    region = service.region or os.environ.get("AWS_REGION")
    anonymous = session.get_credentials() is None
    with _certificates(service.ca) as verify:
        client = session.create_client(
            "s3",
            endpoint_url=service.endpoint,
            region_name=region or session.get_config_variable("region") or s3.REGION,
            verify=verify,
            config=s3.options(service.endpoint, anonymous=anonymous),
        )
        with closing(client):
            yield client


@contextmanager
def _certificates(ca: Path | None) -> Iterator[str | None]:
    """Yield the file with the trusted certificates; None for those of botocore."""
    if ca is None:
        yield os.environ.get(trust.VARIABLE)
        return
    try:
        bundle = trust.bundle(trust.read(ca, field="--ca"), field="--ca")
    except InvalidSpec as error:
        raise CommandFailed(f"--ca {ca} has no CA certificates in PEM format") from error
    try:
        yield str(bundle)
    finally:
        bundle.unlink()


@contextmanager
def _named(reference: str) -> Iterator[None]:
    """Translate the errors of the service within this block."""
    import botocore.exceptions
    import urllib3.exceptions

    try:
        yield
    except botocore.exceptions.ClientError as error:
        status = errors.status_of(error)
        answer = one_line(f"HTTP {status} {error}")
        if status in (401, 403) or errors.code_of(error) in errors.DENIED:
            raise CommandFailed(
                f"the store denies access to {reference} ({answer}): set AWS_PROFILE, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, to a key with the permissions "
                "s3:ListBucket and s3:GetObject"
            ) from error
        if status == 404:
            fail(Code.MISSING, f"{reference} does not exist ({answer}): correct the reference")
        raise CommandFailed(
            f"the store fails for {reference} ({answer}): correct --endpoint and --region, or run "
            "the command again later"
        ) from error
    except (botocore.exceptions.SSLError, urllib3.exceptions.SSLError, ssl.SSLError) as error:
        raise CommandFailed(
            f"the certificate of the store of {reference} is not trusted ({one_line(error)}): "
            "name a file with its certificate authority in --ca"
        ) from error
    except (
        botocore.exceptions.BotoCoreError,
        urllib3.exceptions.HTTPError,
        TimeoutError,
        ConnectionError,
    ) as error:
        raise CommandFailed(
            f"{reference} cannot be read ({one_line(error)}): correct --endpoint, and check the "
            "connection and the AWS configuration of this machine"
        ) from error
