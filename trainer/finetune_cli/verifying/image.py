"""An image in an OCI registry, named by digest, whose blobs are compared with a signed statement.

The statement names the manifest, which names all blobs: no file can be added or left out.
"""

import hashlib
import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_api.contracts.provenance.attestation import Statement
from finetune_cli.errors import CommandFailed
from finetune_cli.verifying import signature
from finetune_cli.verifying.failures import Code, fail
from finetune_trainer.publishing.oci import blobs
from finetune_trainer.publishing.oci.image import Blob
from finetune_trainer.publishing.oci.registry import Registry
from finetune_trainer.publishing.target_errors import TargetError
from finetune_trainer.publishing.transfer import Transfer
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.signatures import statements
from finetune_trainer.signatures.statements import PublicKey
from finetune_trainer.sources.oci import attached, docker_config
from finetune_trainer.sources.oci.registry import Fields
from finetune_trainer.sources.oci.registry_errors import Refused, RegistryError

PREFIX = "oci://"


@contextmanager
def connected(repository: str, stop: StopRequest, ca: Path | None) -> Iterator[Registry]:
    """Yield the client of a repository, with the credentials of ``docker login`` if there are any.

    ca: file with additional CA certificates.
    """
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    file, login = folder / "config.json", None
    if file.is_file():
        # A helper is not run; without a login, a public image can be read.
        login = docker_config.login(file.read_text(), repository, field=str(file), helpers=True)
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise CommandFailed(f"--ca {ca} has no CA certificates in PEM format") from error
    transfer = Transfer(progress=Progress("verify"), stop=stop, done=0, total=0)
    registry = Registry(
        repository,
        login=login,
        fields=Fields(secret=str(file), certificates="--ca"),
        context=context,
        transfer=transfer,
        pushes=False,
    )
    try:
        yield registry
    except (TargetError, RegistryError) as error:
        raise CommandFailed(str(error)) from error
    finally:
        registry.close()


def split(reference: str) -> tuple[str, str]:
    """Return repository and digest of ``oci://REPOSITORY@sha256:HEX``. Raise CommandFailed."""
    repository, _, digest = reference.removeprefix(PREFIX).partition("@")
    if "/" not in repository or len(digest) != 71 or not digest.startswith("sha256:"):
        raise CommandFailed(
            f"{reference} does not name an image by its digest: write it as "
            "oci://HOST/REPOSITORY@sha256:DIGEST, as status.publish of the FineTuneJob does"
        )
    return repository, digest


def check(registry: Registry, digest: str, key: PublicKey) -> tuple[list[Statement], int]:
    """Return the signed statements about an image, and the number of its blobs.

    Raise NotVerified.
    """
    manifest = registry.manifest(digest)
    if manifest is None:
        fail(Code.MISSING, f"{registry.name}@{digest} does not exist: correct the reference")
    if f"sha256:{hashlib.sha256(manifest).hexdigest()}" != digest:
        fail(Code.CHANGED, f"the registry returns another manifest for {registry.name}@{digest}")
    signed = _statements(registry, digest, key)
    document = json.loads(manifest)
    parts = [document["config"], *document["layers"]]
    for part in parts:
        _compare(registry, part)
    return signed, len(parts)


def _statements(registry: Registry, digest: str, key: PublicKey) -> list[Statement]:
    """Return the statements about the image that the key has signed, without those of others."""
    name = f"{registry.name}:{attached.tag_of(digest)}"
    signed, problem, count = [], None, 0
    try:
        for document in attached.documents(registry.get, digest):
            count += 1
            try:
                statement = signature.checked(document, key, name=name)
            except CommandFailed as error:
                problem = error
                continue
            # cosign 2 and 3 store the same statement in two places.
            if statements.is_about(statement, digest) and statement not in signed:
                signed.append(statement)
    except attached.Malformed as error:
        fail(Code.NOT_SIGNED, f"{registry.name}: {error}")
    if not count:
        fail(
            Code.NO_STATEMENT,
            f"{registry.name}@{digest} has no signed statement ({name}): the operator signs a "
            "model that a job publishes if its administrator has set a signing key",
        )
    if not signed and problem is not None:
        raise problem
    if not signed:
        fail(Code.NOT_SIGNED, f"{name} has no statement of the key about this image")
    return signed


def _compare(registry: Registry, part: Any) -> None:
    blob = Blob(digest=part["digest"], size=part["size"], read=lambda offset, count: iter(()))
    title = (part.get("annotations") or {}).get(
        "org.opencontainers.image.title", "the configuration"
    )
    name = f"{title} ({blob.digest})"
    try:
        blobs.read_back(registry, blob)
    except Refused as error:
        if error.status != 404:
            raise
        fail(Code.MISSING, f"{name} is missing at the registry: get the image from its publisher")
    except (TargetError, RegistryError):
        fail(
            Code.CHANGED,
            f"{name} is changed at the registry: do not use the model, and get it from its "
            "publisher once more",
        )
