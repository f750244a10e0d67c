"""A hub of models in memory for the real client: repositories with commits, and Git LFS.

It verifies what a hub verifies: tokens, the order of the requests, digests and sizes of large
files, the metadata of the model card, and the parent of a commit. Faults can be injected.
"""

import base64
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_a_token_that_may_write"
OWNER = "acme"
LARGE = (".safetensors", ".png")
DELAY = 2.4
CHUNK = 100_000
"""Bytes of a part; larger files are sent in parts."""


@dataclass
class File:
    """A file of a commit; ``large`` if it is stored in Git LFS."""

    data: bytes
    large: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git(self) -> str:
        return git_digest(pointer(self) if self.large else self.data)


@dataclass
class Commit:
    sha: str
    parent: str | None
    files: dict[str, File]
    title: str = ""
    description: str = ""


@dataclass
class Repo:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit | None:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(sha)

    def commit(self, branch: str, files: dict[str, File], **fields: str) -> Commit:
        parent = self.branches.get(branch)
        listed = "".join(f"{name} {file.git}\n" for name, file in sorted(files.items()))
        sha = hashlib.sha1(f"{parent} {listed} {fields}".encode()).hexdigest()
        made = Commit(sha=sha, parent=parent, files=files, **fields)
        self.commits[sha] = made
        self.branches[branch] = sha
        return made


@dataclass
class ModelHub:
    """The repositories and the faults of a hub."""

    url: str = ""
    storage: str = ""
    """URL of another server that stores large files; empty for the hub itself."""
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """Complete large files by SHA-256."""
    parts: dict[str, dict[int, tuple[str, bytes]]] = field(default_factory=dict)
    """ETags and contents of the parts of unfinished files."""
    expected: bytes | None = None
    """The only file that is sent in parts, if the hub compares it and does not keep it."""
    requests: list[str] = field(default_factory=list)
    received: list[tuple[str, int]] = field(default_factory=list)
    """SHA-256 and size of each transfer of a file, or of a part, that was accepted."""
    received_bytes: int = 0
    answers: list[tuple[str, str, int, str]] = field(default_factory=list)
    """The next answers to requests: method, part of the path, status, text of the error."""
    breaks: list[tuple[str, str, str]] = field(default_factory=list)
    """The next requests whose connection is closed: method, part of the path, and whether that is
    ``before`` or ``after`` the hub has done what they ask for."""
    slow: tuple[str, str] | None = None
    """Method and part of the path of the requests that take ``DELAY`` seconds."""
    at: tuple[int, Callable[[], object]] | None = None
    """A number of received bytes, and what happens then."""
    on_commit: Callable[[], None] | None = None
    """What happens when a commit was made, before the answer."""
    capacity: int = 10**12
    space: int | None = None
    """Number of large files for which there is space; None for all."""
    verifies_at: str = ""
    """URL of another server that the client shall ask whether a file is complete."""
    damages: set[str] = field(default_factory=set)
    """Names of files that a commit stores with another content."""
    token: str = TOKEN
    chunk: int = CHUNK
    retry_after: str = ""
    large_names: tuple[str, ...] = LARGE

    def receive(self, count: int) -> None:
        self.received_bytes += count
        if self.at is not None and self.received_bytes >= self.at[0]:
            action, self.at = self.at[1], None
            action()

    def add(self, name: str, files: dict[str, bytes], *, private: bool = True) -> Repo:
        repo = self.repos[name] = Repo(private=private)
        repo.commit(
            "main", {each: File(data, each.endswith(LARGE)) for each, data in files.items()}
        )
        return repo

    def reset(self) -> None:
        for name, value in vars(ModelHub(url=self.url)).items():
            setattr(self, name, value)


@contextmanager
def serving(
    context: ssl.SSLContext, address: tuple[str, int] = ("127.0.0.1", 0)
) -> Iterator[ModelHub]:
    server = _Server(address, _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    hub = server.hub = ModelHub(url=f"https://{address[0]}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(file: File) -> bytes:
    """Return what Git stores for a large file."""
    text = "version https://git-lfs.github.com/spec/v1"
    return f"{text}\noid sha256:{file.sha256}\nsize {len(file.data)}\n".encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: ModelHub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that were killed."""


class _Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "", **body: Any) -> None:
        self.status, self.message, self.code, self.body = status, message, code, body


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    """An answer is one packet: the client would delay its next request otherwise."""
    _is_lost = False
    """Whether the answer to the present request, the last one of a connection, is not sent."""

    def log_message(self, format: str, *args: object) -> None:
        """Suppress the log."""

    @property
    def hub(self) -> ModelHub:
        server = self.server
        assert isinstance(server, _Server)
        return server.hub

    def _handle(self) -> None:
        hub, parts = self.hub, urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        hub.requests.append(f"{self.command} {path}")
        body = self._body(path)
        self._delay_or_break(path)
        try:
            for index, (method, part, status, text) in enumerate(hub.answers):
                if method == self.command and part in path:
                    del hub.answers[index]
                    raise _Refusal(status, text)
            self._route(path, query, body)
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            headers["Retry-After"] = self.hub.retry_after if refusal.status == 429 else ""
            refused = {"error": refusal.message, **refusal.body}
            self._answer(refusal.status, refused, {k: v for k, v in headers.items() if v})

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _delay_or_break(self, path: str) -> None:
        hub = self.hub
        if hub.slow is not None and hub.slow[0] == self.command and hub.slow[1] in path:
            # Tests that do not wait for retries replace time.sleep.
            threading.Event().wait(DELAY)
        for each in hub.breaks:
            method, part, when = each
            if method == self.command and part in path:
                hub.breaks.remove(each)
                if when == "before":
                    raise ConnectionResetError
                self._is_lost = True
                return

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        if found := re.fullmatch(r"/lfs/([0-9a-f]{64})(?:/(\d+))?", path):
            if "Authorization" in self.headers:
                raise _Refusal(400, "signed addresses need no token")
            self._store(found[1], int(found[2] or 0), body)
            return
        if found := re.fullmatch(r"/complete/([0-9a-f]{64})", path):
            self._complete(found[1], json.loads(body))
            return
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            raise _Refusal(401, "Invalid credentials in Authorization header")
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif path == "/verify":
            asked = json.loads(body)
            stored = self.hub.large.get(asked["oid"])
            if stored is None or len(stored) != asked["size"]:
                raise _Refusal(404, "no such object")
            self._answer(200, {})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._download(self._repo(found[1]).at(found[2]), found[3])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._repo(found[1])
            self._batch(json.loads(body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([a-z]+)/(.+))?", path):
            self._of_repo(self._repo(found[1]), found[1], found[2], found[3], query, body)
        else:
            raise _Refusal(404, "not found")

    def _of_repo(
        self,
        repo: Repo,
        name: str,
        action: str | None,
        revision: str | None,
        query: dict[str, list[str]],
        body: bytes,
    ) -> None:
        if action == "branch":
            assert revision is not None
            if revision in repo.branches:
                raise _Refusal(409, "Reference already exists")
            repo.branches[revision] = repo.branches["main"]
            self._answer(200, {})
            return
        commit = repo.at(revision or "main")
        if commit is None:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if action in (None, "revision"):
            self._info(repo, name, commit, blobs=query.get("blobs") == ["true"])
        elif action == "tree":
            self._answer(200, [_entry(path, file) for path, file in commit.files.items()])
        elif action == "preupload":
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs"
                    if each["path"].endswith(self.hub.large_names)
                    else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(commit.files.get(each["path"])),
                }
                for each in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif action == "tag":
            tag = json.loads(body)["tag"]
            if tag in repo.tags:
                raise _Refusal(409, "Tag reference exists already")
            repo.tags[tag] = commit.sha
            self._answer(200, {})
        elif action == "commit":
            assert revision is not None
            self._commit(repo, name, revision, commit, body)
        else:
            raise _Refusal(404, "not found")

    def _download(self, commit: Commit | None, name: str) -> None:
        if commit is None or name not in commit.files:
            raise _Refusal(404, "Entry not found", "EntryNotFound")
        file = commit.files[name]
        etag = file.sha256 if file.large else file.git
        self._send(200, file.data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit.sha})

    def _repo(self, name: str) -> Repo:
        found = self.hub.repos.get(name)
        if found is None:
            raise _Refusal(404, "Repository not found", "RepoNotFound")
        return found

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != OWNER:
            raise _Refusal(403, f"You don't have the rights to create a model under {name}")
        if name in self.hub.repos:
            # The client reads the address also from this answer.
            raise _Refusal(409, "You already created this model repo", url=f"{self.hub.url}/{name}")
        self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.hub.repos[name].private = asked["visibility"] == "private"
        self._answer(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": "1"})

    def _validate(self, card: str) -> None:
        found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
        metadata = yaml.safe_load(found[1]) if found else None
        if not isinstance(metadata, dict) or not isinstance(metadata.get("tags"), list):
            errors = [{"message": '"tags" must be a list'}]
            raise _Refusal(400, "invalid metadata", errors=errors, warnings=[])
        self._answer(200, {"errors": [], "warnings": []})

    def _info(self, repo: Repo, name: str, commit: Commit, *, blobs: bool) -> None:
        siblings = []
        for path, file in commit.files.items():
            entry: dict[str, Any] = {"rfilename": path}
            if blobs:
                entry |= {"size": len(file.data), "blobId": file.git}
                if file.large:
                    size = len(file.data)
                    entry["lfs"] = {"sha256": file.sha256, "size": size, "pointerSize": 130}
            siblings.append(entry)
        about = {"id": name, "sha": commit.sha, "private": repo.private, "tags": []}
        self._answer(200, about | {"siblings": siblings})

    def _batch(self, asked: dict[str, Any]) -> None:
        hub, objects = self.hub, []
        for each in asked["objects"]:
            oid, size = each["oid"], each["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in hub.large:
                if size > hub.capacity:
                    entry["error"] = {"code": 507, "message": "storage limit exceeded"}
                else:
                    entry["actions"] = self._actions(oid, size)
            objects.append(entry)
        self._answer(200, {"transfer": "multipart", "objects": objects})

    def _actions(self, oid: str, size: int) -> dict[str, Any]:
        hub = self.hub
        store = f"{hub.storage or hub.url}/lfs/{oid}"
        upload: dict[str, Any] = {"href": store}
        if size > hub.chunk:
            count = -(-size // hub.chunk)
            header = {f"{number:05d}": f"{store}/{number}" for number in range(1, count + 1)}
            upload = {
                "href": f"{hub.url}/complete/{oid}",
                "header": {"chunk_size": str(hub.chunk), **header},
            }
        return {"upload": upload, "verify": {"href": f"{hub.verifies_at or hub.url}/verify"}}

    def _store(self, oid: str, part: int, data: bytes) -> None:
        hub = self.hub
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if part == 0:
            if hashlib.sha256(data).hexdigest() != oid:
                raise _Refusal(400, "the content has another digest")
            self._require_space()
            hub.large[oid] = data
        else:
            self._require_space()
            known = hub.parts.setdefault(oid, {})
            if part > 1 and part - 1 not in known:
                raise _Refusal(400, "parts are out of order")
            if hub.expected is not None:
                at = (part - 1) * hub.chunk
                if hub.expected[at : at + len(data)] != data:
                    raise _Refusal(400, "the part has another content")
            known[part] = (etag, data if hub.expected is None else b"")
        hub.received.append((oid, len(data)))
        self._answer(200, {}, {"ETag": f'"{etag}"'})

    def _require_space(self) -> None:
        if self.hub.space is not None and len(self.hub.large) >= self.hub.space:
            raise _Refusal(507, "Insufficient Storage")

    def _complete(self, oid: str, asked: dict[str, Any]) -> None:
        hub = self.hub
        if oid in hub.large:
            # As at an S3 service, the request may be repeated.
            self._answer(200, {})
            return
        parts = hub.parts.get(oid, {})
        listed = [(each["partNumber"], each["etag"].strip('"')) for each in asked["parts"]]
        expected = [(number, etag) for number, (etag, _) in sorted(parts.items())]
        data = hub.expected or b"".join(data for _, (_, data) in sorted(parts.items()))
        if asked["oid"] != oid or listed != expected:
            raise _Refusal(400, "the list of parts is wrong")
        if hashlib.sha256(data).hexdigest() != oid:
            raise _Refusal(400, "the content has another digest")
        hub.large[oid] = data
        del hub.parts[oid]
        self._answer(200, {})

    def _commit(self, repo: Repo, name: str, branch: str, head: Commit, body: bytes) -> None:
        header, *entries = [json.loads(line) for line in body.splitlines()]
        if header["key"] != "header" or not header["value"]["summary"]:
            raise _Refusal(400, "the header is missing")
        if branch not in repo.branches:
            raise _Refusal(400, "commits go to branches")
        if header["value"].get("parentCommit") not in (None, repo.branches[branch]):
            raise _Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for each in entries:
            value = each["value"]
            if each["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = File(base64.b64decode(value["content"]), large=False)
            elif each["key"] == "lfsFile":
                data = self.hub.large.get(value["oid"])
                if data is None or len(data) != value["size"] or value["algo"] != "sha256":
                    raise _Refusal(400, f"the object of {value['path']} was not uploaded")
                files[value["path"]] = File(data, large=True)
            elif each["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise _Refusal(400, f"unknown operation {each['key']}")
        for path in self.hub.damages & files.keys():
            files[path] = File(files[path].data[:-1] + b"!", large=files[path].large)
        made = repo.commit(
            branch,
            files,
            title=header["value"]["summary"],
            description=header["value"].get("description", ""),
        )
        if self.hub.on_commit is not None:
            action, self.hub.on_commit = self.hub.on_commit, None
            action()
        url = f"{self.hub.url}/{name}/commit/{made.sha}"
        self._answer(200, {"commitOid": made.sha, "commitUrl": url})

    def _body(self, path: str) -> bytes:
        data, length = b"", self.headers.get("Content-Length")
        if length is None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline().strip() or b"0", 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            return data
        left, chunks = int(length), []
        while left and (chunk := self.rfile.read(min(left, 1 << 14))):
            left -= len(chunk)
            chunks.append(chunk)
            if path.startswith("/lfs/"):
                self.hub.receive(len(chunk))
        return b"".join(chunks)

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        if self._is_lost:
            raise ConnectionResetError
        described = {**(headers or {}), "Content-Type": "application/json"}
        self._send(status, json.dumps(body).encode(), described)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _entry(path: str, file: File) -> dict[str, Any]:
    size = len(file.data)
    large = {"lfs": {"oid": file.sha256, "size": size, "pointerSize": 130}} if file.large else {}
    return {"type": "file", "path": path, "size": size, "oid": file.git, **large}


def _oid(file: File | None) -> str | None:
    """Return what the hub says about a file that it has."""
    if file is None:
        return None
    return file.sha256 if file.large else file.git
