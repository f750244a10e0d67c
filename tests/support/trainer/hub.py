"""A hub on localhost for the real client: folders as repositories, with gating and faults."""

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

SIGNATURE = "c2lnbmVk"
"""Part of a signed URL, which must not appear in messages."""


@dataclass
class Repo:
    folder: Path
    gated_with: str | None = None
    lfs: tuple[str, ...] = (".safetensors", ".parquet")

    def files(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }

    def commit(self) -> str:
        whole = hashlib.sha1(usedforsecurity=False)
        for name, data in self.files().items():
            whole.update(name.encode() + hashlib.sha256(data).digest())
        return whole.hexdigest()


@dataclass
class Hub:
    url: str
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ranges: list[tuple[str, str | None]] = field(default_factory=list)
    """Requested files, with the Range header of each request."""
    corrupt: set[str] = field(default_factory=set)
    """Names of files that are sent with wrong bytes."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """For each file, the numbers of bytes after which the next transfers are interrupted."""
    answers: dict[str, list[int]] = field(default_factory=dict)
    """For each file, the status codes of the next transfers; 200 sends the bytes."""
    cdn: str = ""
    """The target of redirects of transfers, with signed URLs; empty for no redirect."""
    path: str = ""
    """Path of a mirror: the part of each URL before that of the hub, with a leading slash."""
    refusing: int = 0
    """The status code of every response, if any."""

    def add(self, kind: str, name: str, folder: Path, *, gated_with: str | None = None) -> str:
        self.repos[f"{kind}s/{name}"] = Repo(folder, gated_with)
        return f"hf://{name}"


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Hub]:
    """Serve until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    hub = Hub(url=f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Suppress the log."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(self.path.split("?")[0]).strip("/")
        hub.requests.append(f"{self.command} {path}")
        path = path.removeprefix(hub.path.lstrip("/")).lstrip("/")
        if hub.refusing:
            self._refuse(hub.refusing, "", "try again later")
            return
        if path.startswith("api/"):
            kind, org, name, *rest = path[4:].split("/")
            repo = hub.repos.get(f"{kind}/{org}/{name}")
            if repo is None:
                self._refuse(401, "RepoNotFound", "Repository not found")
            elif rest[:1] == ["revision"] and rest[1] not in ("main", repo.commit()):
                self._refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
            else:
                self._info(repo, f"{org}/{name}")
            return
        kind = "models"
        if path.startswith("datasets/"):
            kind, path = "datasets", path.removeprefix("datasets/")
        org, name, resolve, revision, *rest = path.split("/")
        repo = hub.repos.get(f"{kind}/{org}/{name}")
        if repo is None or resolve != "resolve":
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif revision != repo.commit():
            # A branch is also rejected, because files must be read at a pinned commit.
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif repo.gated_with and self.headers.get("Authorization") != f"Bearer {repo.gated_with}":
            code = 403 if self.headers.get("Authorization") else 401
            self._refuse(code, "GatedRepo", "Access to this repository is restricted")
        elif (data := repo.files().get("/".join(rest))) is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            self._file(hub, repo, "/".join(rest), data)

    def _info(self, repo: Repo, name: str) -> None:
        siblings = []
        for file, data in repo.files().items():
            entry: dict[str, object] = {"rfilename": file, "size": len(data)}
            if file.endswith(repo.lfs):
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 135}
            siblings.append(entry)
        body = {"id": name, "sha": repo.commit(), "siblings": siblings, "private": False}
        self._answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, hub: Hub, repo: Repo, name: str, data: bytes) -> None:
        etag = hashlib.sha256(data).hexdigest()
        if name in hub.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repo.commit(), "Accept-Ranges": "bytes"}
        if name.endswith(repo.lfs):
            # The hub also offers the Xet protocol.
            headers |= {"X-Xet-Hash": etag, "Link": f'<{hub.url}/xet>; rel="xet-auth"'}
        asked = self.headers.get("Range")
        cut = None
        if self.command == "GET":
            hub.ranges.append((name, asked))
            status = hub.answers[name].pop(0) if hub.answers.get(name) else 200
            if status != 200:
                self._answer(status, b"", {})
                return
            if hub.cdn and name.endswith(repo.lfs):
                self._answer(302, b"", {"Location": f"{hub.cdn}/{name}?Signature={SIGNATURE}"})
                return
            cut = hub.cuts[name].pop(0) if hub.cuts.get(name) else None
        if asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._answer(206, data[start:], headers, cut)
        else:
            self._answer(200, data, headers, cut)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
            self.close_connection |= cut is not None
