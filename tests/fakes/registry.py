"""An OCI registry in memory that obeys the distribution specification strictly, with faults.

It verifies digests, positions of parts and the blobs of a manifest, and answers like a registry
that forgets nothing. Every request is recorded with its Authorization header.
"""

import base64
import hashlib
import json
import re
import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes import tls_server

CHUNK = 1 << 16
UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/([0-9a-f]*)")
BLOB = re.compile(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})")
REFERRERS = re.compile(r"/v2/(.+)/referrers/(sha256:[0-9a-f]{64})")
MANIFEST = re.compile(r"/v2/(.+)/manifests/(.+)")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Registry:
    """The content and the faults of a registry."""

    host: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    """By tag and by digest."""
    uploads: dict[str, bytearray] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Authorization header of each request."""
    received: int = 0
    """Bytes of blobs that were received, complete or not."""
    finished: list[str] = field(default_factory=list)
    """Digests of finished uploads, in their order."""

    user: tuple[str, str] | None = None
    """The user and password that it accepts; None accepts everybody."""
    bearer: bool = False
    """Whether it wants a token of its realm instead of the password."""
    actions: str = "pull,push"
    """What the scope of a token has to name."""
    realm: str | None = None
    """Another realm than its own."""
    tokens: set[str] = field(default_factory=set)
    scopes: list[str] = field(default_factory=list)
    """The scopes that were asked for, one for each token."""
    uses: int = 10**9
    """Requests after which a token expires."""
    used: dict[str, int] = field(default_factory=dict)
    expires_in: int = 300
    refused: set[str] = field(default_factory=set)
    """Methods that it answers with 403."""
    answers: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    """The next answers to requests of a method: method, status, headers."""
    capacity: int = 10**12
    cuts: list[int] = field(default_factory=list)
    """Bytes of the next parts after which the connection is closed."""
    download_cuts: list[int] = field(default_factory=list)
    """Bytes of the next downloads of blobs after which the connection is closed."""
    ranges: bool = True
    """Whether it sends a part of a blob if asked for one."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Digest and range of each download of a blob."""
    forgets: bool = False
    """Whether it forgets an upload whose part was interrupted, as 2.8.2 does."""
    one_request: bool = False
    """Whether it refuses parts of a blob."""
    redirect: str | None = None
    """Where it redirects the downloads of blobs to, with a ``/`` at the end."""
    uploads_at: str | None = None
    """Where it stores uploads, without a ``/`` at the end."""
    delay: float = 0.0
    lost: int = 0
    """Finished uploads whose answer is lost."""
    referrers: bool = False
    """Whether it lists the referrers of a manifest."""
    at: tuple[int, Callable[[], None]] | None = None
    """A number of received bytes, and what happens then."""

    def receive(self, count: int) -> None:
        self.received += count
        if self.at is not None and self.received >= self.at[0]:
            action, self.at = self.at[1], None
            action()

    def tag(self, name: str, manifest: bytes) -> str:
        self.manifests[name] = self.manifests[digest_of(manifest)] = manifest
        return digest_of(manifest)

    def referring_to(self, digest: str) -> list[str]:
        """The digests of the manifests whose subject is a manifest."""
        return [
            name
            for name, data in self.manifests.items()
            if name.startswith("sha256:")
            and (json.loads(data).get("subject") or {}).get("digest") == digest
        ]

    def reset(self) -> None:
        for name, value in vars(Registry(host=self.host)).items():
            setattr(self, name, value)

    @property
    def authorizations(self) -> set[str | None]:
        return {each[2] for each in self.requests}


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[Registry]:
    with tls_server.serving(_Handler, context) as server:
        server.registry = Registry(host=f"127.0.0.1:{server.server_port}")
        yield server.registry


class _Handler(tls_server.Handler):
    server: Any

    def handle_request(self) -> None:
        registry = self.server.registry
        time.sleep(registry.delay)
        authorization = self.headers.get("Authorization")
        registry.requests.append((self.command, self.path, authorization))
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        for planned in registry.answers:
            if planned[0] == self.command:
                registry.answers.remove(planned)
                return self._answer(planned[1], b"planned", planned[2])
        if path == "/token":
            return self._token(query)
        if not self._is_allowed(authorization):
            scheme = f'Basic realm="{registry.host}"'
            if registry.bearer:
                own = f"https://{registry.host}/token"
                realm = own if registry.realm is None else registry.realm
                scheme = f'Bearer realm="{realm}",service="test",scope="repository:x:pull"'
            return self._answer(401, b"{}", {"WWW-Authenticate": scheme})
        if self.command in registry.refused:
            return self._error(403, "DENIED")
        for pattern, handle in (
            (UPLOAD, self._upload),
            (BLOB, self._blob),
            (MANIFEST, self._manifest),
            (REFERRERS, self._referrers),
        ):
            if found := pattern.fullmatch(path):
                return handle(found[2], query)
        return self._error(404, "NOT_FOUND")

    def _is_allowed(self, authorization: str | None) -> bool:
        registry = self.server.registry
        if registry.user is None:
            return True
        kind, _, value = (authorization or "").partition(" ")
        if not registry.bearer:
            return kind == "Basic" and value == _basic(registry.user)
        used = registry.used[value] = registry.used.get(value, 0) + 1
        return kind == "Bearer" and value in registry.tokens and used <= registry.uses

    def _token(self, query: dict[str, list[str]]) -> None:
        registry = self.server.registry
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        user = registry.user
        scope = (query | form).get("scope", [""])[0]
        assert user is not None
        allowed = self.headers.get("Authorization") == f"Basic {_basic(user)}"
        if not (allowed or form.get("refresh_token") == [user[1]]) or (
            scope.rpartition(":")[2] != registry.actions
        ):
            return self._error(401, "UNAUTHORIZED")
        token = uuid.uuid4().hex
        registry.scopes.append(scope)
        registry.tokens.add(token)
        body = {"token": token, "expires_in": registry.expires_in}
        return self._answer(200, json.dumps(body).encode(), {})

    def _upload(self, name: str, query: dict[str, list[str]]) -> None:
        registry = self.server.registry
        if self.command == "POST":
            name = uuid.uuid4().hex
            registry.uploads[name] = bytearray()
            return self._answer(202, b"", self._position(name))
        if name not in registry.uploads:
            return self._error(404, "BLOB_UPLOAD_UNKNOWN")
        if self.command == "GET":
            return self._answer(204, b"", self._position(name))
        data, length = registry.uploads[name], int(self.headers["Content-Length"])
        if self.command == "PATCH":
            return self._part(name, data, length)
        assert self.command == "PUT"
        assert length == 0
        (wanted,) = query["digest"]
        del registry.uploads[name]
        if digest_of(bytes(data)) != wanted:
            return self._error(400, "DIGEST_INVALID")
        registry.blobs[wanted] = bytes(data)
        registry.finished.append(wanted)
        if registry.lost:
            registry.lost -= 1
            self.close_connection = True
            return None
        return self._answer(201, b"", {"Location": f"/v2/x/blobs/{wanted}"})

    def _part(self, name: str, data: bytearray, length: int) -> None:
        registry = self.server.registry
        first = self.headers.get("Content-Range", "0-").split("-")[0]
        if registry.one_request and "Content-Range" in self.headers:
            return self._error(400, "UNSUPPORTED", closes=True)
        if int(first) != len(data):
            return self._error(416, "RANGE_INVALID", closes=True)
        cut = registry.cuts.pop(0) if registry.cuts else None
        left = length
        while left:
            chunk = self.rfile.read(min(CHUNK, left))
            registry.receive(len(chunk))
            left -= len(chunk)
            if len(data) + sum(map(len, registry.blobs.values())) > registry.capacity:
                return self._error(500, "UNKNOWN: no space left on device", closes=True)
            if not chunk or (cut is not None and length - left >= cut):
                if registry.forgets:
                    del registry.uploads[name]
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(2)
                return None
            data += chunk
        return self._answer(202, b"", self._position(name))

    def _position(self, name: str) -> dict[str, str]:
        registry = self.server.registry
        last = max(0, len(registry.uploads[name]) - 1)
        location = f"{registry.uploads_at or ''}/v2/x/blobs/uploads/{name}?state=a"
        return {"Location": location, "Range": f"0-{last}"}

    def _blob(self, name: str, query: dict[str, list[str]]) -> None:
        registry = self.server.registry
        if name not in registry.blobs:
            return self._error(404, "BLOB_UNKNOWN")
        if registry.redirect and self.command == "GET":
            return self._answer(307, b"", {"Location": f"{registry.redirect}v2/x/blobs/{name}"})
        data, asked = registry.blobs[name], self.headers.get("Range")
        if self.command == "GET":
            registry.asked.append((name, asked))
        if asked is None or not registry.ranges:
            return self._answer(200, data, {}, cut=self._cut())
        first, _, last = asked.removeprefix("bytes=").partition("-")
        found = data[int(first) : int(last) + 1 if last else None]
        place = {"Content-Range": f"bytes {first}-{int(first) + len(found) - 1}/{len(data)}"}
        return self._answer(206, found, place, cut=self._cut())

    def _cut(self) -> int | None:
        cuts = self.server.registry.download_cuts
        return cuts.pop(0) if cuts and self.command == "GET" else None

    def _manifest(self, name: str, query: dict[str, list[str]]) -> None:
        registry = self.server.registry
        if self.command != "PUT":
            if name not in registry.manifests:
                return self._error(404, "MANIFEST_UNKNOWN")
            return self._answer(200, registry.manifests[name], {})
        data = self.rfile.read(int(self.headers["Content-Length"]))
        document = json.loads(data)
        parts = [document["config"], *document["layers"]] if "config" in document else []
        for each in parts:
            if len(registry.blobs.get(each["digest"], b"")) != each["size"]:
                return self._error(400, "MANIFEST_BLOB_UNKNOWN")
        for each in (*document.get("manifests", ()), *filter(None, [document.get("subject")])):
            if len(registry.manifests.get(each["digest"], b"")) != each["size"]:
                return self._error(400, "MANIFEST_UNKNOWN")
        if self.headers["Content-Type"] != document["mediaType"]:
            return self._error(400, "MANIFEST_INVALID")
        if name.startswith("sha256:") and name != digest_of(data):
            return self._error(400, "DIGEST_INVALID")
        registry.tag(name, data)
        return self._answer(201, b"", {})

    def _referrers(self, name: str, query: dict[str, list[str]]) -> None:
        registry = self.server.registry
        if not registry.referrers:
            return self._error(404, "NOT_FOUND")
        documents = {
            each: json.loads(registry.manifests[each]) for each in registry.referring_to(name)
        }
        entries = [
            {
                "mediaType": document["mediaType"],
                "digest": digest,
                "size": len(registry.manifests[digest]),
                "artifactType": document.get("artifactType"),
                "annotations": document.get("annotations"),
            }
            for digest, document in documents.items()
        ]
        return self._answer(200, json.dumps({"manifests": entries}).encode(), {})

    def _error(self, status: int, code: str, *, closes: bool = False) -> None:
        self.close_connection = self.close_connection or closes
        self._answer(status, json.dumps({"errors": [{"code": code}]}).encode(), {})

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], *, cut: int | None = None
    ) -> None:
        if self.command in ("POST", "PUT", "PATCH") and status >= 300:
            # The body of the request was not read.
            self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def _basic(user: tuple[str, str]) -> str:
    return base64.b64encode(":".join(user).encode()).decode()
