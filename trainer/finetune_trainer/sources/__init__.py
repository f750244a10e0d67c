"""Sources of base and datasets: a hub, a claim, S3, a registry, a web server, a ConfigMap.

Each source is a ``Store``: it pins a ``Repository`` to one state and downloads files of that state.
The rest of the preparation is independent of the kind of source.
"""

import os
from pathlib import Path

from finetune_api.safety.credentials import DOCKER_CONFIG
from finetune_api.v1alpha1.data.rows import Rows
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.sources import (
    CLAIM_SOURCE_PREFIX,
    CONFIGMAP_SOURCE_PREFIX,
    OCI_SOURCE_PREFIX,
    Kind,
    prefix_of,
)
from finetune_api.v1alpha1.training.start_from import StartFrom
from finetune_trainer.sources import credentials
from finetune_trainer.sources.folder import Folder
from finetune_trainer.sources.hub import Hub
from finetune_trainer.sources.repository import RemoteFile, Repository, Store, bytes_below

__all__ = [
    "Folder",
    "Hub",
    "RemoteFile",
    "Repository",
    "Store",
    "bytes_below",
    "open_store",
]

CONFIG = "/etc/finetune"
CLAIMS = "/sources"


def open_store(kind: Kind, part: Model | Rows | StartFrom) -> Store:
    """Return the store of a source.

    Mounts are expected below ``FINETUNE_CONFIG_DIR`` and ``FINETUNE_SOURCES_DIR``. Tokens come from
    the environment variables of this source only. Raise AccessDenied if one cannot be used.
    """
    source = part.source
    assert source is not None, "job.json names the place of another job's adapter"
    prefix = prefix_of(kind)
    config = Path(os.environ.get("FINETUNE_CONFIG_DIR", CONFIG))
    ca_file = config / "ca" / f"{kind}.crt"
    trusted = ca_file if ca_file.is_file() else None
    if source.startswith(CONFIGMAP_SOURCE_PREFIX):
        key = source.rsplit("/", 1)[-1]
        return Folder(
            kind=kind,
            name=source,
            root=Path(os.environ.get(f"FINETUNE_{prefix}_DIR", config / kind)),
            path=key,
            remediation=f"check that the ConfigMap exists and has the key {key!r}",
        )
    if source.startswith(CLAIM_SOURCE_PREFIX):
        claim, _, path = source.removeprefix(CLAIM_SOURCE_PREFIX).partition("/")
        return Folder(
            kind=kind,
            name=source,
            root=Path(os.environ.get("FINETUNE_SOURCES_DIR", CLAIMS)) / claim,
            path=path,
            remediation=f"correct {kind}.source, or copy files to PersistentVolumeClaim {claim}",
        )
    if source.startswith("s3://"):
        from finetune_trainer.sources.s3 import S3

        return S3(kind=kind, source=source, endpoint=part.s3.endpoint, ca_file=trusted)
    if source.startswith(OCI_SOURCE_PREFIX):
        from finetune_trainer.sources.oci.store import OCI

        login = os.environ.get(f"{prefix}_{DOCKER_CONFIG}")
        return OCI(kind=kind, source=source, login=login, ca_file=trusted)
    if source.startswith("https://"):
        from finetune_trainer.sources.https import Https

        return Https(
            kind=kind,
            url=source,
            sha256="" if isinstance(part, StartFrom) else part.sha256 or "",
            token=_token(kind, f"{prefix}_HTTPS_TOKEN"),
            ca_file=trusted,
        )
    return Hub(
        kind=kind,
        source=source,
        revision=part.revision or "main",
        token=_token(kind, f"{prefix}_HF_TOKEN"),
        ca_file=trusted,
    )


def _token(kind: Kind, variable: str) -> str | None:
    return credentials.read(variable, what="the token", field=f"{kind}.tokenSecretRef")
