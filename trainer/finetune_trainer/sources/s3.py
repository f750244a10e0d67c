"""Objects of an S3-compatible store, read with s3fs: one object, or all objects below a prefix.

A bucket has no commits. Its state is pinned by the digest of the list of objects (name, size,
ETag), and every read requires the ETag of that list, so that two states are never mixed.
"""

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

from finetune_api.v1alpha1.sources import Kind, prefix_of
from finetune_trainer.errors import AccessDenied, InvalidSpec, TrainerError, Transient
from finetune_trainer.sources import credentials, egress, trust
from finetune_trainer.sources.remote import RemoteStore
from finetune_trainer.sources.repository import (
    RemoteFile,
    Repository,
    brief,
    denial,
    digest_of,
    missing,
)
from finetune_trainer.sources.transfer import BrokenTransfer
from finetune_trainer.volume.volume_errors import is_full_volume

BLOCK = 16 << 20
"""Bytes of one request."""
IDENTITIES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
"""Variables that a cloud provider sets in a pod whose service account has a cloud identity."""


@dataclass(frozen=True, kw_only=True)
class _Object:
    """An object in the version that was listed; size in bytes."""

    key: str
    etag: str
    size: int


class S3(RemoteStore):
    """Reads one object or prefix. Credentials come from variables prefixed with the kind."""

    def __init__(
        self,
        *,
        kind: Kind,
        source: str,
        endpoint: str | None,
        ca_file: Path | None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """``source`` is ``s3://bucket/path``; ``ca_file`` has certificates to trust in addition.

        Raise AccessDenied if a credential cannot be used.
        """
        super().__init__(kind=kind, name=source, remediation=f"check {kind}.s3.endpoint")
        self._path = source.removeprefix("s3://").rstrip("/")
        self._endpoint = endpoint
        self._ca_file = ca_file
        self._environment = environment
        self._key = self._credential("AWS_ACCESS_KEY_ID")
        self._secret = self._credential("AWS_SECRET_ACCESS_KEY")
        self._token = self._credential("AWS_SESSION_TOKEN")
        self._objects: dict[str, _Object] = {}

    def pin(self) -> Repository:
        """Return the objects as they are now."""
        with self._named():
            listing = self._files().find(self._path, detail=True)
        self._objects = dict(_objects(self._path, listing))
        if not self._objects:
            raise missing(self.kind)(f"{self.what} contains no object: correct {self.kind}.source")
        lines = (
            f"{object_.etag} {object_.size}  {name}" for name, object_ in self._objects.items()
        )
        files = {
            name: RemoteFile(name=name, size=object_.size, sha256=None)
            for name, object_ in self._objects.items()
        }
        return Repository(kind=self.kind, name=self.name, commit=digest_of(lines), files=files)

    def _session(self) -> AbstractContextManager[Any]:
        return nullcontext(self._files())

    @contextmanager
    def _opened(
        self, session: Any, repository: Repository, name: str, offset: int
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        listed = self._objects[name]
        with self._reading(name):
            file = session.open(listed.key, "rb", block_size=BLOCK, cache_type="none")
        with file:
            if file.details["ETag"] != listed.etag:
                raise self._changed(name)
            file.seek(offset)
            yield offset, self._chunks(file, name)

    def _chunks(self, file: Any, name: str) -> Iterator[bytes]:
        while True:
            with self._reading(name):
                chunk = file.read(BLOCK)
            if not chunk:
                return
            yield chunk

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Raise BrokenTransfer for errors of the connection; pass on refusals."""
        import aiohttp
        import botocore.exceptions
        from fsspec.exceptions import FSTimeoutError
        from s3fs.utils import FileExpired

        try:
            yield
        except FileExpired as error:
            raise self._changed(name) from error
        except (FileNotFoundError, PermissionError):
            raise
        except (
            OSError,
            aiohttp.ClientError,
            FSTimeoutError,
            botocore.exceptions.HTTPClientError,
        ) as error:
            if is_full_volume(error) or denial(error):
                raise
            raise BrokenTransfer(brief(error)) from error

    def _changed(self, name: str) -> Transient:
        return Transient(
            f"{name} of {self.kind} {self.name} changed while it was read: the next attempt "
            "starts with the new version"
        )

    def _files(self) -> Any:
        """Return the file system; anonymous without credentials and without cloud identity.

        The default credential chain of botocore would end at the identity of the node.
        """
        import s3fs

        if self._endpoint is not None:
            egress.announce(self._endpoint, chosen_by_job=True)
        region = self._environment.get(f"{prefix_of(self.kind)}_AWS_REGION") or "us-east-1"
        client: dict[str, Any] = {"region_name": region}
        if self._ca_file is not None:
            field = f"{self.kind}.caConfigMapRef"
            certificates = trust.read(self._ca_file, field=field)
            client["verify"] = str(trust.bundle(certificates, field=field))
        elif trust.VARIABLE in os.environ:
            client["verify"] = os.environ[trust.VARIABLE]
        return s3fs.S3FileSystem(
            anon=not self._key and not self._has_identity(),
            key=self._key,
            secret=self._secret,
            token=self._token,
            endpoint_url=self._endpoint,
            client_kwargs=client,
            config_kwargs={
                "connect_timeout": 20,
                "read_timeout": 60,
                "http_session_cls": one_server_session(),
                "retries": {"max_attempts": 3, "mode": "standard"},
            },
            skip_instance_cache=True,
            use_listings_cache=False,
        )

    def _credential(self, name: str) -> str | None:
        return credentials.read(
            f"{prefix_of(self.kind)}_{name}",
            what=name,
            field=f"{self.kind}.s3.secretRef",
            environment=self._environment,
        )

    def _has_identity(self) -> bool:
        return any(self._environment.get(name) for name in IDENTITIES)

    def _meaning(self, error: Exception) -> TrainerError | None:
        import botocore.exceptions

        if isinstance(error, PermissionError | botocore.exceptions.NoCredentialsError):
            return self._no_access(error)
        if isinstance(error, FileNotFoundError):
            return missing(self.kind)(
                f"{self.what} does not exist: correct {self.kind}.source, or "
                f"{self.kind}.s3.endpoint"
            )
        if isinstance(error, botocore.exceptions.SSLError | ssl.SSLError):
            return InvalidSpec(
                f"the certificate of {self._endpoint or 'the store'} is not trusted "
                f"({brief(error)}): set {self.kind}.caConfigMapRef to a ConfigMap with its "
                "certificate authority, or let an administrator set the chart value caCertificates"
            )
        unreachable = isinstance(error, botocore.exceptions.BotoCoreError | OSError)
        if not unreachable or is_full_volume(error):
            return None
        return Transient(
            f"the store is unreachable for {self.what} ({brief(error)}): the next attempt retries "
            f"the download. If the error persists, check {self.kind}.s3.endpoint and the network "
            "policy"
        )

    def _no_access(self, error: Exception) -> AccessDenied:
        remediation = (
            f"check that the key in {self.kind}.s3.secretRef is correct and has permission to list "
            "and read the objects"
            if self._key
            else "check that the cloud role of the ServiceAccount in access.serviceAccountName "
            "has permission to list and read the objects"
            if self._has_identity()
            else f"set {self.kind}.s3.secretRef, or set access.serviceAccountName to a "
            "ServiceAccount with a cloud identity"
        )
        return AccessDenied(
            f"the store denies access to {self.what} ({_refusal(error)}): {remediation}"
        )


def one_server_session() -> type:
    """Return a class of HTTP sessions that follow no redirect.

    aiohttp would send the session token to the other server, which the policy may not allow.
    botocore itself handles the redirects of Amazon S3 to another region.
    """
    from aiobotocore.httpsession import AIOHTTPSession

    class OneServerSession(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            request = partial(session.request, allow_redirects=False)
            return SimpleNamespace(request=request)

    return OneServerSession


def _refusal(error: BaseException) -> str:
    """Return the error text of the store, which names the missing permission."""
    cause = error.__cause__
    return brief(cause if cause is not None else error)


def _objects(path: str, listing: Mapping[str, Any]) -> Iterator[tuple[str, _Object]]:
    """Yield the objects in a listing of ``path``, each with its name below that."""
    for key, entry in sorted(listing.items()):
        name = PurePosixPath(key).name if key == path else key[len(path) + 1 :]
        if entry["type"] != "file" or key.endswith("/") or ".." in name.split("/"):
            continue
        yield name, _Object(key=key, etag=entry["ETag"], size=entry["size"])
