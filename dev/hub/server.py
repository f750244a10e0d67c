"""A hub-compatible HTTP server over a folder of repositories, for real hub clients.

    python3 -m hub.server --root /content [--host 0.0.0.0] [--port 8000]

Implements the requests of ``huggingface_hub`` and ``datasets``: repository information, trees and
paths, file contents with the headers for caching (ETag, X-Repo-Commit, X-Linked-*) and ranges, and
``X-Error-Code`` in error responses. Read-only, and only the standard library.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hub.repositories import CHUNK, File, HubError, Repository, Store

NAME = r"(?P<name>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>models|datasets)/{NAME}"
ROUTES = (
    (re.compile(rf"{API}"), "info"),
    (re.compile(rf"{API}/revision/(?P<revision>[^/]+)"), "info"),
    (re.compile(rf"{API}/refs"), "refs"),
    (re.compile(rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?"), "tree"),
    (re.compile(rf"{API}/paths-info/(?P<revision>[^/]+)"), "paths_info"),
    (
        re.compile(rf"/(?:(?P<kind>datasets)/)?{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
        "resolve",
    ),
)
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def describe(file: File) -> dict[str, Any]:
    """Return the entry of a file in trees and path listings."""
    entry: dict[str, Any] = {
        "type": "file",
        "path": file.path,
        "size": file.size,
        "oid": file.oid,
    }
    if file.large:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
    return entry


def sibling(file: File, *, blobs: bool) -> dict[str, Any]:
    """Return the entry of a file in repository information."""
    entry: dict[str, Any] = {"rfilename": file.path}
    if blobs:
        entry |= {"size": file.size, "blobId": file.oid}
        if file.large:
            entry["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 134}
    return entry


class Handler(BaseHTTPRequestHandler):
    """One request. HEAD is handled like GET, without the body."""

    protocol_version = "HTTP/1.1"
    server_version = "finetune-hub"
    store: Store

    def do_GET(self) -> None:
        """Answer with headers and body."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer with headers only."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a query whose parameters are in the body."""
        self._answer()

    def _answer(self) -> None:
        parsed = urllib.parse.urlsplit(self.path)
        self.query = urllib.parse.parse_qs(parsed.query)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        try:
            self._route(parsed.path)
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            self._send_json({"error": str(error)}, status=error.status, headers=headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, path: str) -> None:
        if path == "/healthz":
            self._send_json({"status": "ok"})
            return
        for pattern, name in ROUTES:
            match = pattern.fullmatch(path)
            if match:
                parts = {
                    key: urllib.parse.unquote(value or "")
                    for key, value in match.groupdict().items()
                }
                repository = self.store.repository(parts.get("kind") or "models", parts["name"])
                repository.check_access(self._token())
                repository.check_revision(parts.get("revision") or "main")
                getattr(self, f"_{name}")(repository, parts.get("path", ""))
                return
        raise HubError(404, "NotFound", f"Path {path} does not exist.")

    def _token(self) -> str | None:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token if scheme == "Bearer" and token else None

    def _info(self, repository: Repository, _: str) -> None:
        blobs = "blobs" in self.query
        content: dict[str, Any] = {
            "id": repository.name,
            "sha": repository.commit,
            "private": False,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "lastModified": "2025-01-01T00:00:00.000Z",
            "createdAt": "2025-01-01T00:00:00.000Z",
            "siblings": [sibling(file, blobs=blobs) for file in repository.files],
        }
        if repository.kind == "models":
            content["modelId"] = repository.name
        self._send_json(content)

    def _refs(self, repository: Repository, _: str) -> None:
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commit}
        self._send_json({"branches": [main], "tags": [], "converts": []})

    def _tree(self, repository: Repository, path: str) -> None:
        prefix = f"{path.strip('/')}/" if path.strip("/") else ""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for file in repository.files:
            if not file.path.startswith(prefix):
                continue
            first, *deeper = file.path.removeprefix(prefix).split("/")
            if deeper:
                for depth in range(len(deeper) if recursive else 1):
                    folder = prefix + "/".join([first, *deeper[:depth]])
                    entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": ""}
            if recursive or not deeper:
                entries[file.path] = describe(file)
        if prefix and not entries:
            raise HubError(404, "EntryNotFound", f"{repository.name} has no folder {path}")
        self._send_json(list(entries.values()))

    def _paths_info(self, repository: Repository, _: str) -> None:
        if "json" in (self.headers.get("Content-Type") or ""):
            wanted = json.loads(self.body or b"{}").get("paths", [])
        else:
            wanted = urllib.parse.parse_qs(self.body.decode()).get("paths", [])
        names = {wanted} if isinstance(wanted, str) else set(wanted)
        self._send_json([describe(file) for file in repository.files if file.path in names])

    def _resolve(self, repository: Repository, path: str) -> None:
        file = repository.file(path)
        headers = {
            "ETag": f'"{file.etag}"',
            "X-Repo-Commit": repository.commit,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if file.large:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        first, last, status = 0, file.size - 1, 200
        match = RANGE.fullmatch(self.headers.get("Range") or "")
        if match and any(match.groups()):
            first, last = self._range(match, file.size)
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
            if first > last:
                headers["Content-Range"] = f"bytes */{file.size}"
                self._send_head(416, {**headers, "Content-Length": "0"})
                return
        self._send_head(status, {**headers, "Content-Length": str(last - first + 1)})
        if self.command == "HEAD":
            return
        with file.location.open("rb") as stream:
            stream.seek(first)
            left = last - first + 1
            while left > 0 and (chunk := stream.read(min(CHUNK, left))):
                self.wfile.write(chunk)
                left -= len(chunk)

    @staticmethod
    def _range(match: re.Match[str], size: int) -> tuple[int, int]:
        start, end = match.groups()
        if not start:
            return max(size - int(end), 0), size - 1
        return int(start), min(int(end), size - 1) if end else size - 1

    def _send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_json(
        self, content: Any, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(content).encode()
        length = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self._send_head(status, {**length, **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print one line for each request, except for health probes."""
        if self.path != "/healthz":
            print(f"{self.address_string()} {format % arguments}", flush=True)


class Server(ThreadingHTTPServer):
    """Serve each connection in a thread; shutdown does not wait for the threads."""

    daemon_threads = True
    request_queue_size = 128


def make_server(root: Path, host: str, port: int) -> Server:
    """Return a bound server that does not serve yet; port 0 selects a free port."""
    store = Store(root)
    store.hash_all()
    handler = type("BoundHandler", (Handler,), {"store": store})
    return Server((host, port), handler)


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="hub-compatible server over a folder")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    with make_server(arguments.root, arguments.host, arguments.port) as server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
