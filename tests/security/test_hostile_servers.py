"""A web server or an object store lies about files, redirects, and returns invalid answers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from huggingface_hub import HfApi

from finetune_trainer.errors import InvalidSpec, TrainerError
from finetune_trainer.sources.hub import Hub
from finetune_trainer.sources.repository import RemoteFile, readable_answers
from finetune_trainer.sources.s3 import S3
from finetune_trainer.sources.transfer import fetch

pytestmark = pytest.mark.finding(17, "a server redirects and returns invalid answers")

KEYS = {
    "MODEL_AWS_ACCESS_KEY_ID": "id",
    "MODEL_AWS_SECRET_ACCESS_KEY": "secret",
    "MODEL_AWS_SESSION_TOKEN": "session",
}
LIST = (
    "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/a.jsonl</Key>"
    "<LastModified>{date}</LastModified><ETag>x</ETag><Size>{size}</Size></Contents>"
    "</ListBucketResult>"
)
DATE = "2026-01-01T00:00:00.000Z"


class Store(BaseHTTPRequestHandler):
    """An S3 service. It answers each request with ``answer``: status, headers, body."""

    answer: ClassVar[tuple[int, dict[str, str], str]] = (200, {}, "")
    requests: ClassVar[list[dict[str, str]]] = []

    def log_message(self, format: str, *args: object) -> None:
        """Write no log."""

    def do_GET(self) -> None:
        self.requests.append(dict(self.headers))
        status, headers, body = self.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())


@contextmanager
def serving(status: int, headers: dict[str, str], body: str) -> Iterator[tuple[str, type[Store]]]:
    answer = (status, headers, body)
    handler = type("Own", (Store,), {"answer": answer, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()


def pin(endpoint: str) -> Any:
    store = S3(kind="model", source="s3://b/p", endpoint=endpoint, ca_file=None, environment=KEYS)
    return store.pin()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_an_object_store_cannot_redirect_to_another_server(status: int) -> None:
    """The other server would receive the session token."""
    with serving(200, {}, LIST.format(date=DATE, size=1)) as (other, handler):
        target = {"Location": f"{other}/b?list-type=2"}
        with serving(status, target, "") as (endpoint, first), pytest.raises(TrainerError):
            pin(endpoint)
        assert first.requests
        assert handler.requests == []


def test_list_of_an_object_store_is_read() -> None:
    with serving(200, {}, LIST.format(date=DATE, size=1)) as (endpoint, _):
        assert pin(endpoint).files["a.jsonl"].size == 1


@pytest.mark.parametrize("value", [{"size": "x\t1"}, {"size": ""}, {"size": "-5"}, {"date": "x"}])
def test_invalid_value_in_the_list_of_an_object_store(value: dict[str, str]) -> None:
    text = LIST.format(**({"date": DATE, "size": "1"} | value))
    with serving(200, {}, text) as (endpoint, _), pytest.raises(InvalidSpec):
        pin(endpoint)


@pytest.mark.parametrize("size", [-1, "1", 1.5, True])
def test_size_that_a_source_cannot_mean(size: Any) -> None:
    with pytest.raises(InvalidSpec, match="states an invalid size"):
        RemoteFile(name="a", size=size, sha256=None)


ERRORS = (ValueError("x"), UnicodeError("label too long"), KeyError("x"), RecursionError("x"))


@pytest.mark.parametrize("error", ERRORS)
def test_answer_that_a_client_cannot_read(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(HfApi, "repo_info", failing)
    hub = Hub(kind="model", source="hf://acme/evil", revision="main", token=None, ca_file=None)
    with pytest.raises(InvalidSpec, match=r"invalid answer for .*acme/evil"):
        hub.pin()


def test_certificate_error_is_no_invalid_answer() -> None:
    """It is a ValueError as well, and has a remediation of its own."""
    import ssl

    with pytest.raises(ssl.SSLCertVerificationError), readable_answers("model x", "y"):
        raise ssl.SSLCertVerificationError("CERTIFICATE_VERIFY_FAILED")


NAMES = {
    "too long": "x" * 5000 + ".jsonl",
    "no room for the partial file": "x" * 252,
    "deep": "d/" * 2000 + "rows.jsonl",
    "NUL": "rows\0.jsonl",
    "lone surrogate": "rows\ud800.jsonl",
    "below a file": "file/rows.jsonl",
    "a folder": "folder",
}


@pytest.mark.parametrize("name", NAMES)
def test_name_that_no_file_can_have_is_invalid(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()

    @contextmanager
    def read(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        raise AssertionError("the file was requested")
        yield 0, iter(())

    file = RemoteFile(name=NAMES[name], size=1, sha256=None)
    with pytest.raises(InvalidSpec, match="rename the file in the source") as raised:
        fetch(file, read, tmp_path, what="dataset evil")
    assert str(raised.value).isprintable()
    assert len(json.dumps(str(raised.value))) < 600
