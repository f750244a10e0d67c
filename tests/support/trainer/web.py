"""TLS servers on localhost: a file server with ranges, tokens and faults, and an S3 service."""

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3  # type: ignore[import-untyped]
import httpx
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and ``*.corp.test``, and its key."""

    authority: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority, self.key)
        return context


def certificate(folder: Path) -> Certificate:
    made = Certificate(authority=folder / "ca.crt", key=folder / "tls.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=test", "-keyout", str(made.key)]
    command += [
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:*.corp.test",
        "-out",
        str(made.authority),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return made


@dataclass
class Web:
    """The files and the faults of the server. Paths have no leading slash."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None
    cuts: list[int] = field(default_factory=list)
    """The numbers of bytes after which the next transfers are interrupted."""
    answers: dict[str, int] = field(default_factory=dict)
    """Status codes of the responses for some paths."""
    busy: list[int] = field(default_factory=list)
    """Status codes of the next responses; 200 sends the file."""
    redirects: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def web(own: Certificate) -> Iterator[Web]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.socket = own.context().wrap_socket(server.socket, server_side=True)
    found = Web(url=f"https://127.0.0.1:{server.server_port}")
    server.web = found  # type: ignore[attr-defined]
    with _running(server):
        yield found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Suppress the log."""

    def do_GET(self) -> None:
        web: Web = self.server.web  # type: ignore[attr-defined]
        path, asked = unquote(self.path).strip("/"), self.headers.get("Range")
        web.requests.append((path, asked))
        if path in web.redirects:
            self._answer(302, b"", {"Location": web.redirects[path]})
        elif web.busy and (status := web.busy.pop(0)) != 200:
            self._answer(status, b"", {})
        elif path in web.answers:
            self._answer(web.answers[path], b"", {})
        elif web.token and self.headers.get("Authorization") != f"Bearer {web.token}":
            self._answer(401, b"", {})
        elif path not in web.files:
            self._answer(404, b"", {})
        elif asked and web.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            data = web.files[path]
            if not data:
                self._answer(416, b"", {"Content-Range": "bytes */0"})
                return
            part = data[int(first) : int(last) + 1 if last else None]
            until = int(first) + len(part) - 1
            self._answer(206, part, {"Content-Range": f"bytes {first}-{until}/{len(data)}"})
        else:
            self._answer(200, web.files[path], {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        web: Web = self.server.web  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if len(body) > 1 and web.cuts:
            self.wfile.write(body[: web.cuts.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(body)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """An S3 service with one bucket, a key with read permission, and a key without."""

    url: str
    name: str
    allowed: dict[str, str]
    forbidden: dict[str, str]
    client: Any

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)


POLICY = """{"Version": "2012-10-17", "Statement":
 [{"Effect": "Allow", "Action": ["s3:*", "sts:*"], "Resource": "*"}]}"""


@contextmanager
def s3(own: Certificate) -> Iterator[Bucket]:
    """Serve S3 with authentication on."""
    server = make_server(
        "127.0.0.1",
        0,
        _Signed(DomainDispatcherApplication(create_backend_app)),
        threaded=True,
        ssl_context=own.context(),
        request_handler=_Quiet,
    )
    url = f"https://127.0.0.1:{server.server_port}"
    with _running(server):
        options = {"endpoint_url": url, "verify": str(own.authority), "region_name": "eu-central-1"}
        options |= {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
        iam = boto3.client("iam", **options)
        iam.create_user(UserName="reader")
        iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=POLICY)
        iam.create_user(UserName="stranger")
        iam.create_role(RoleName="reads", AssumeRolePolicyDocument=POLICY)
        iam.put_role_policy(RoleName="reads", PolicyName="read", PolicyDocument=POLICY)
        keys = {}
        for user in ("reader", "stranger"):
            made = iam.create_access_key(UserName=user)["AccessKey"]
            keys[user] = {
                "AWS_ACCESS_KEY_ID": made["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"],
            }
        options["aws_access_key_id"] = keys["reader"]["AWS_ACCESS_KEY_ID"]
        options["aws_secret_access_key"] = keys["reader"]["AWS_SECRET_ACCESS_KEY"]
        client = boto3.client("s3", **options)
        client.create_bucket(
            Bucket="tuning", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        authenticate(url, own, always=True)
        yield Bucket(
            url=url,
            name="tuning",
            allowed=keys["reader"],
            forbidden=keys["stranger"],
            client=client,
        )
        authenticate(url, own, always=False)


def authenticate(url: str, own: Certificate, *, always: bool) -> None:
    """Turn the authentication of the service on or off."""
    context = ssl.create_default_context(cafile=own.authority)
    path, content = f"{url}/moto-api/reset-auth", "0" if always else "inf"
    httpx.post(path, content=content, verify=context).raise_for_status()


class _Signed:
    """Reject unsigned requests like S3; moto answers with a different error."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        if environ["PATH_INFO"].startswith("/tuning") and "HTTP_AUTHORIZATION" not in environ:
            start("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        return self._service(environ, start)


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        """Suppress the log."""


@contextmanager
def _running(server: Any) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
