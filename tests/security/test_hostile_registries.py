"""A registry lies, redirects, and asks for credentials, while a model is published or verified.

It controls every answer. It must get neither the credentials of the job at another host, nor a
published condition for other bytes, nor the memory of the client.
"""

import gc
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import registry
from tests.fakes.registry import Registry
from tests.support.signing_keys import KEY, new_key
from tests.support.trainer import publishing, web
from tests.support.trainer.publishing import Published, Volume, run
from tests.support.trainer.web import Certificate

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import ENVELOPE_TYPE
from finetune_cli import __main__ as ftj
from finetune_cli.verifying.failures import Code
from finetune_operator.provenance import signed
from finetune_trainer.publishing import transfer
from finetune_trainer.publishing.oci import retries

pytestmark = pytest.mark.finding(18, "a registry is hostile")

USER, PASSWORD = "robot", "correct horse battery"
WRITES = ("POST", "PATCH", "PUT")
MEMORY = 64 << 20
"""Bytes by which an answer of any size may raise the memory of the client."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return web.certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def _servers(certificate: Certificate) -> Iterator[tuple[Registry, Registry]]:
    with (
        registry.serving(certificate.context()) as first,
        registry.serving(certificate.context()) as second,
    ):
        yield first, second


@pytest.fixture
def server(_servers: tuple[Registry, Registry]) -> Registry:
    _servers[0].reset()
    _servers[0].user = (USER, PASSWORD)
    return _servers[0]


@pytest.fixture
def other(_servers: tuple[Registry, Registry]) -> Registry:
    """The host to which the registry refers; its answers are those of a registry, too."""
    _servers[1].reset()
    return _servers[1]


@pytest.fixture(scope="module")
def _volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return publishing.volume(tmp_path_factory.mktemp("volume"))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(transfer, "LONGEST_PAUSE", 0.01)


@pytest.fixture
def publish(_volume: Volume, server: Registry, certificate: Certificate) -> Callable[[], Published]:
    """Publish the adapter with the credentials of the registry."""
    entry = {"username": USER, "password": PASSWORD}
    config = json.dumps({"auths": {server.host: entry}})
    oci = {"repository": f"{server.host}/team/tiny", "ca": str(certificate.authority)}
    target = _volume.target(oci=oci, tags=("latest",))

    def published() -> Published:
        return run(_volume, target, environment={"PUBLISH_MAIN_DOCKER_CONFIG_JSON": config})

    return published


def received(*servers: Registry) -> str:
    """Return all that some servers were sent besides blobs, for a search for credentials."""
    return json.dumps([server.requests for server in servers])


def assert_secret(text: str) -> None:
    basic = registry._basic((USER, PASSWORD))
    assert PASSWORD not in text
    assert basic not in text
    assert "Bearer " not in text


REALMS = {
    "another host": "https://{other}/token",
    "plain http": "http://{server}/token",
    "user in the address": "https://{server}@{other}/token",
    "backslash": "https://{server}\\@{other}/token",
    "host in the path": "https://{other}/{server}/token",
    "host in the fragment": "https://{other}#@{server}/token",
    "host in the query": "https://{other}?https://{server}/token",
    "relative": "//{other}/token",
    "metadata service": "http://169.254.169.254/latest/meta-data",
    "file": "file:///etc/passwd",
    "empty": "",
    "other brackets": "https://[::1",
    "a line break": "https://{server}/token\r\nHost: {other}",
}


@pytest.mark.parametrize("realm", REALMS)
def test_a_realm_elsewhere_gets_no_credentials(
    server: Registry, other: Registry, publish: Callable[[], Published], realm: str
) -> None:
    server.bearer = True
    # The client compares the names of hosts; both servers have the same address.
    elsewhere = other.host.replace("127.0.0.1", "localhost")
    server.realm = REALMS[realm].format(server=server.host, other=elsewhere)
    done = publish()
    assert done.failure[0] in ("AccessDenied", "TargetRejected", "Transient")
    assert not other.requests
    assert_secret(received(server))
    assert PASSWORD not in done.failure[1]


def test_a_realm_cannot_redirect_a_request_with_credentials(
    server: Registry, other: Registry, publish: Callable[[], Published], monkeypatch: Any
) -> None:
    server.bearer = True
    location = {"Location": f"https://{other.host}/token"}
    monkeypatch.setattr(
        registry._Handler, "_token", lambda self, query: self._answer(307, b"", location)
    )
    assert publish().failure[0] == "TargetRejected"
    assert not other.requests


@pytest.mark.parametrize("method", ["GET", "HEAD", *WRITES])
def test_a_redirect_gets_no_credentials(
    server: Registry, other: Registry, publish: Callable[[], Published], method: str
) -> None:
    other.user = ("someone", "else")
    place = f"https://{other.host}/v2/team/tiny/x"
    # The first request of each method is refused, and the client then sends its credentials.
    server.answers = [
        (method, 401, {"WWW-Authenticate": "Basic"}),
        (method, 307, {"Location": place}),
    ]
    assert publish().error is not None
    assert_secret(received(other))


@pytest.mark.parametrize("challenge", ["Basic", 'Bearer realm="{own}"', 'Bearer realm="{server}"'])
def test_a_host_of_blobs_cannot_ask_for_credentials(
    server: Registry, other: Registry, publish: Callable[[], Published], challenge: str
) -> None:
    server.redirect = f"https://{other.host}/"
    realms = {
        each: f"https://{host}/token"
        for each, host in (("own", other.host), ("server", server.host))
    }
    other.answers = [("GET", 401, {"WWW-Authenticate": challenge.format(**realms)})] * 50
    assert publish().error is not None
    assert_secret(received(other))


@pytest.mark.parametrize(
    "location",
    [
        "http://{other}/upload",
        "ftp://{other}/upload",
        "https://[",
        "//:0/upload",
        "https://{other}:0/",
    ],
)
def test_an_upload_is_sent_over_tls_alone(
    server: Registry, other: Registry, publish: Callable[[], Published], location: str
) -> None:
    server.answers = [("POST", 202, {"Location": location.format(other=other.host)})] * 9
    assert publish().failure[0] == "TargetRejected"
    assert not other.requests
    assert not server.manifests


LIES: dict[str, Callable[[Registry], None]] = {
    "forgets every blob": lambda server: server.blobs.clear(),
    "flips a byte": lambda server: server.blobs.update(
        {name: bytes([data[0] ^ 1]) + data[1:] for name, data in server.blobs.items()}
    ),
    "appends a byte": lambda server: server.blobs.update(
        {name: data + b"x" for name, data in server.blobs.items()}
    ),
    "cuts a byte": lambda server: server.blobs.update(
        {name: data[:-1] for name, data in server.blobs.items()}
    ),
    "swaps the manifest": lambda server: server.manifests.update(
        dict.fromkeys(server.manifests, b'{"schemaVersion":2,"layers":[]}')
    ),
    "forgets the manifest": lambda server: server.manifests.clear(),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_target_that_returns_other_bytes_is_never_complete(
    server: Registry, publish: Callable[[], Published], lie: str, monkeypatch: Any
) -> None:
    original = registry._Handler._manifest

    def stored(self: Any, name: str, query: Any) -> None:
        original(self, name, query)
        if self.command == "PUT":
            LIES[lie](server)

    monkeypatch.setattr(registry._Handler, "_manifest", stored)
    done = publish()
    assert done.failure[0] in ("TargetRejected", "TargetConflict", "Transient")
    assert "latest" not in server.manifests


class Verify:
    """``ftj verify`` of an image whose statement is right until the registry changes something."""

    def __init__(
        self, server: Registry, certificate: Certificate, folder: Path, digest: str
    ) -> None:
        self.server, self.digest = server, digest
        self.tag = f"{digest.replace(':', '-')}.att"
        self._certificate = certificate
        self._key = folder / "signing.pub"
        self._key.write_bytes(KEY.public_key)
        self.answer(self.envelope())

    def envelope(self, **changes: Any) -> bytes:
        """The statement as the operator signs it, with changes before the signature."""
        statement = {
            "_type": attestation.STATEMENT_TYPE,
            "subject": [
                {"name": "image", "digest": {"sha256": self.digest.removeprefix("sha256:")}}
            ],
            "predicateType": attestation.PROVENANCE_TYPE,
            "predicate": {},
        } | changes
        return json.dumps(signed.envelope(statement, KEY)).encode()

    def answer(self, *envelopes: bytes, **document: Any) -> None:
        """Store statements under the tag."""
        layers = []
        for each in envelopes:
            digest = registry.digest_of(each)
            self.server.blobs[digest] = each
            layers.append({"mediaType": ENVELOPE_TYPE, "digest": digest, "size": len(each)})
        self.server.tag(self.tag, json.dumps({"layers": layers, **document}).encode())

    def __call__(self) -> int:
        reference = f"oci://{self.server.host}/team/tiny@{self.digest}"
        options = ["--key", str(self._key), "--ca", str(self._certificate.authority)]
        return ftj.main(["verify", reference, *options])


@pytest.fixture
def verify(
    server: Registry,
    publish: Callable[[], Published],
    certificate: Certificate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Verify:
    digest = publish().only.digest
    assert digest is not None
    server.user = None
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return Verify(server, certificate, tmp_path, digest)


def test_the_honest_registry_is_verified(verify: Verify) -> None:
    assert verify() == 0


DOCUMENTS: dict[str, bytes] = {
    "empty": b"",
    "no object": b"[]",
    "no layers": b"{}",
    "layers of another kind": b'{"layers": {"digest": 1}}',
    "layers without digests": b'{"layers": [{}]}',
    "layers that are texts": b'{"layers": ["sha256:x"]}',
    "nested lists": b'{"layers": ' + b"[" * 200_000,
    "nested objects": b'{"layers": ' + b'{"a":' * 200_000,
    "a large number": b'{"layers": [' + b"9" * 1_000_000 + b"]}",
    "a path as digest": json.dumps(
        {"layers": [{"mediaType": ENVELOPE_TYPE, "digest": "../../../_catalog"}]}
    ).encode(),
    "an address as digest": json.dumps(
        {"layers": [{"mediaType": ENVELOPE_TYPE, "digest": "x?y=https://127.0.0.1:1/"}]}
    ).encode(),
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_malformed_list_of_statements_proves_nothing(
    verify: Verify, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verify.server.tag(verify.tag, DOCUMENTS[name])
    # What earlier tests left is freed now, and not in the middle of a recursion that is too deep.
    gc.collect()
    assert verify() in (Code.NOT_SIGNED, Code.NO_STATEMENT, 1)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_a_list_of_many_statements_is_read_in_part(verify: Verify) -> None:
    foreign = [
        json.dumps(signed.envelope({"number": number}, new_key())).encode() for number in range(3)
    ]
    verify.answer(*foreign * 1000)
    verify.server.requests.clear()
    assert verify() == Code.NOT_SIGNED
    assert len(verify.server.requests) < 100


@pytest.mark.parametrize("place", ["manifest", "statements", "statement", "blob"])
def test_an_endless_answer_ends(verify: Verify, place: str, monkeypatch: Any) -> None:
    """The answer has no length, and would be longer than the memory."""
    name = {
        "manifest": verify.digest,
        "statements": verify.tag,
        "statement": json.loads(verify.server.manifests[verify.tag])["layers"][0]["digest"],
        "blob": json.loads(verify.server.manifests[verify.digest])["layers"][0]["digest"],
    }[place]
    handle = registry._Handler.handle_request
    sent: list[int] = []

    def endless(self: Any) -> None:
        if not self.path.endswith(name):
            return handle(self)
        self.send_response(200)
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        chunk = bytes(1 << 20)
        try:
            while len(sent) < 2048:
                self.wfile.write(chunk)
                sent.append(1)
        except OSError:
            pass

    monkeypatch.setattr(registry._Handler, "handle_request", endless)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert verify() != 0
    assert len(sent) < 200, "the client has read it to its end"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY


def test_a_compressed_blob_is_not_decompressed(verify: Verify, monkeypatch: Any) -> None:
    """A small answer could otherwise fill the memory."""
    import gzip

    bomb = gzip.compress(bytes(200 << 20), compresslevel=9)
    layer = json.loads(verify.server.manifests[verify.digest])["layers"][0]["digest"]
    handle = registry._Handler.handle_request

    def compressed(self: Any) -> None:
        if self.path.endswith(layer):
            self._answer(200, bomb, {"Content-Encoding": "gzip"})
        else:
            handle(self)

    monkeypatch.setattr(registry._Handler, "handle_request", compressed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert verify() == Code.CHANGED
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": [{"name": "image", "digest": {"sha256": "0" * 64}}]},
        {"subject": [{"name": "image", "digest": {"sha512": "0" * 64}}]},
        {"subject": []},
        {"_type": "https://in-toto.io/Statement/v0.1"},
    ],
    ids=["another image", "another digest", "no image", "another version"],
)
def test_a_signed_statement_about_something_else_proves_nothing(
    verify: Verify, changes: dict[str, Any]
) -> None:
    """The registry has statements of the operator about other images, too."""
    verify.answer(verify.envelope(**changes))
    assert verify() == Code.NOT_SIGNED


def test_texts_of_the_registry_are_shown_without_control_characters(
    verify: Verify, capsys: pytest.CaptureFixture[str]
) -> None:
    """They could otherwise change what the terminal shows."""
    verify.server.answers = [("GET", 400, {"X": "y"})]
    document = {"layers": [{"mediaType": "\x1b[2Jverified", "digest": "\x1b[2J"}]}
    verify.server.tag(verify.tag, json.dumps(document).encode())
    assert verify() != 0
    assert "\x1b" not in capsys.readouterr().err
