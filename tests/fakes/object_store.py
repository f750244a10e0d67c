"""An S3 service in memory that verifies checksums and conditions, with faults.

It has one bucket, ``models``, and knows its clients by their access keys alone.
"""

import base64
import hashlib
import re
import ssl
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fakes import tls_server

KEY = "PUBLISHER"
BUCKET = "models"
META = "x-amz-meta-"


Stored = tuple[bytes, dict[str, str]]
"""The content of an object, and its metadata."""


@dataclass
class Upload:
    """An unfinished upload: its parts by number, and the metadata of the object."""

    key: str
    metadata: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass
class Store:
    """The objects and the faults of a service."""

    url: str = ""
    objects: dict[str, Stored] = field(default_factory=dict)
    """Data and metadata by key."""
    uploads: dict[str, Upload] = field(default_factory=dict)
    received: list[tuple[str, int, int]] = field(default_factory=list)
    """Key, number of the part (0 without parts) and size of everything that was stored."""
    bytes: int = 0
    written: list[str] = field(default_factory=list)
    """Keys of complete objects, in their order."""
    answers: list[tuple[str, int, str]] = field(default_factory=list)
    """The next answers to requests of a method: method, status, code."""
    capacity: int = 10**12
    lists_checksums: bool = True
    at: tuple[int, Callable[[], None]] | None = None
    """A number of received bytes, and what happens then."""
    keys: set[str] = field(default_factory=set)
    """Access keys that were used."""
    cuts: list[int] = field(default_factory=list)
    """Bytes of the next downloads of weights after which the connection is closed."""
    lost: list[str] = field(default_factory=list)
    """Names of objects after whose next writing the connection is closed without an answer."""
    rivals: dict[str, Stored] = field(default_factory=dict)
    """Objects that another client writes just before the next request that would."""
    delay: float = 0.0
    page: int = 1000
    """Objects in an answer to a list."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Key and range of each object that was read."""

    def receive(self, count: int) -> None:
        self.bytes += count
        if self.at is not None and self.bytes >= self.at[0]:
            action, self.at = self.at[1], None
            action()

    def reset(self) -> None:
        for name, value in vars(Store(url=self.url)).items():
            setattr(self, name, value)


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[Store]:
    with tls_server.serving(_Handler, context) as server:
        server.store = Store(url=f"https://127.0.0.1:{server.server_port}")
        yield server.store


class _Handler(tls_server.Handler):
    server: Any

    def handle_request(self) -> None:
        store = self.server.store
        time.sleep(store.delay)
        parts = urlsplit(self.path)
        query = {name: each[0] for name, each in parse_qs(parts.query, True).items()}
        bucket, _, key = unquote(parts.path).strip("/").partition("/")
        data = self._body()
        found = re.search(r"Credential=(\w+)/", self.headers.get("Authorization", ""))
        store.keys.add(found[1] if found else "")
        for planned in store.answers:
            if planned[0] == self.command:
                store.answers.remove(planned)
                return self._error(planned[1], planned[2])
        if found is None or found[1] != KEY:
            return self._error(403, "InvalidAccessKeyId")
        if bucket != BUCKET:
            return self._error(404, "NoSuchBucket")
        if data is None:
            return self._error(400, "BadDigest")
        if self.command == "HEAD" and not key:
            return self._answer(200, b"", {})
        if not key and "list-type" in query:
            return self._list_objects(query["prefix"], query.get("continuation-token", ""))
        if not key:
            return self._list_uploads(query["prefix"])
        if self.command == "PUT":
            return self._put(key, data, query)
        if self.command == "POST":
            return self._post(key, data, query)
        if "uploadId" in query:
            return self._list_parts(query["uploadId"])
        return self._get(key)

    def _body(self) -> bytes | None:
        """Return the body; None if it has not the checksum of the request."""
        data, left = bytearray(), int(self.headers.get("Content-Length") or 0)
        while left and (chunk := self.rfile.read(min(1 << 16, left))):
            data += chunk
            left -= len(chunk)
            if self.command == "PUT":
                self.server.store.receive(len(chunk))
        given = self.headers.get("x-amz-checksum-crc32")
        if self.command == "PUT" and given is None:
            return None
        return None if given not in (None, crc32(bytes(data))) else bytes(data)

    def _exists(self, key: str) -> bool:
        objects, rivals = self.server.store.objects, self.server.store.rivals
        if key in rivals:
            objects[key] = rivals.pop(key)
        return self.headers.get("If-None-Match") == "*" and key in objects

    def _put(self, key: str, data: bytes, query: dict[str, str]) -> None:
        store = self.server.store
        if sum(len(each[0]) for each in store.objects.values()) + len(data) > store.capacity:
            return self._error(507, "InsufficientStorage")
        if "uploadId" in query:
            number = int(query["partNumber"])
            store.uploads[query["uploadId"]].parts[number] = data
            store.received.append((key, number, len(data)))
            return self._answer(200, b"", {"ETag": etag(data), "x-amz-checksum-crc32": crc32(data)})
        if self._exists(key):
            return self._error(412, "PreconditionFailed")
        self._store(key, data, self._metadata())
        store.received.append((key, 0, len(data)))
        return self._answer(200, b"", {"ETag": etag(data)})

    def _post(self, key: str, data: bytes, query: dict[str, str]) -> None:
        store = self.server.store
        if "uploads" in query:
            name = f"upload{len(store.uploads)}"
            store.uploads[name] = Upload(key, self._metadata())
            return self._xml(
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId>"
                "</InitiateMultipartUploadResult>"
            )
        upload = store.uploads.get(query["uploadId"])
        if upload is None:
            return self._error(404, "NoSuchUpload")
        if self._exists(key):
            return self._error(412, "PreconditionFailed")
        tags = re.findall(r"<ETag>(.*?)</ETag>", data.decode())
        parts = [upload.parts[number] for number in sorted(upload.parts)]
        if [unquote(tag).replace("&quot;", '"') for tag in tags] != [etag(each) for each in parts]:
            return self._error(400, "InvalidPart")
        del store.uploads[query["uploadId"]]
        self._store(key, b"".join(parts), upload.metadata)
        return self._xml(
            "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        )

    def _store(self, key: str, data: bytes, metadata: dict[str, str]) -> None:
        store = self.server.store
        store.objects[key] = (data, metadata)
        store.written.append(key)
        if (name := key.rpartition("/")[2]) in store.lost:
            store.lost.remove(name)
            raise ConnectionResetError

    def _metadata(self) -> dict[str, str]:
        return {
            name.lower().removeprefix(META): value
            for name, value in self.headers.items()
            if name.lower().startswith(META)
        }

    def _get(self, key: str) -> None:
        store = self.server.store
        if key not in store.objects:
            return self._error(404, "NoSuchKey")
        data, metadata = store.objects[key]
        headers = {META + name: value for name, value in metadata.items()}
        asked = self.headers.get("Range")
        if self.command == "GET":
            store.asked.append((key, asked))
        if asked is None:
            return self._answer(200, data, headers)
        first = int(asked.removeprefix("bytes=").removesuffix("-"))
        headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        return self._answer(206, data[first:], headers)

    def _list_objects(self, prefix: str, after: str) -> None:
        store = self.server.store
        keys = [key for key in sorted(store.objects) if key.startswith(prefix) and key > after]
        found = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(store.objects[key][0])}</Size></Contents>"
            for key in keys[: store.page]
        )
        more = len(keys) > store.page
        token = keys[store.page - 1] if more else ""
        self._xml(
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"<NextContinuationToken>{token}</NextContinuationToken>{found}</ListBucketResult>"
        )

    def _list_uploads(self, prefix: str) -> None:
        found = "".join(
            f"<Upload><Key>{upload.key}</Key><UploadId>{name}</UploadId>"
            "<Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>"
            for name, upload in self.server.store.uploads.items()
            if upload.key.startswith(prefix)
        )
        self._xml(
            f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{found}"
            "</ListMultipartUploadsResult>"
        )

    def _list_parts(self, name: str) -> None:
        store = self.server.store
        found = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etag(data)}</ETag>"
            f"<Size>{len(data)}</Size>"
            + (f"<ChecksumCRC32>{crc32(data)}</ChecksumCRC32>" if store.lists_checksums else "")
            + "</Part>"
            for number, data in store.uploads[name].parts.items()
        )
        self._xml(f"<ListPartsResult><IsTruncated>false</IsTruncated>{found}</ListPartsResult>")

    def _xml(self, text: str) -> None:
        self._answer(200, f'<?xml version="1.0"?>{text}'.encode(), {"Content-Type": "text/xml"})

    def _error(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{code} of the test</Message></Error>"
        self._answer(status, text.encode(), {"Content-Type": "text/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.server.store.cuts
        if cuts and self.command == "GET" and urlsplit(self.path).path.endswith(".safetensors"):
            self.wfile.write(body[: cuts.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(body)


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
