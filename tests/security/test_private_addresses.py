"""A source, redirect or DNS name leads prepare to a private address; the trainer does not connect.

Each case runs without any NetworkPolicy, as in a cluster whose network plugin enforces none. The
private service is a listener that counts connections.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.security.echo import Echo
from tests.support.trainer import tiny, web
from tests.support.trainer.web import Certificate, Web
from tests.support.trainer.workshop import Ended, Server, Workshop

pytestmark = [
    pytest.mark.finding(11, "prepare connects to private addresses"),
    pytest.mark.filterwarnings("default"),
]
DIGEST = hashlib.sha256(b"").hexdigest()


@contextmanager
def listening() -> Iterator[tuple[int, list[Any]]]:
    """Listen on localhost; yield the port and the connections so far."""
    connections: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, peer = listener.accept()
                except OSError:
                    return
                connections.append(peer)
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1], connections
        finally:
            # Closing alone does not end accept.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def private() -> Iterator[tuple[int, list[Any]]]:
    with listening() as found:
        yield found


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return web.certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def site(own: Certificate) -> Iterator[Web]:
    with web.web(own) as found:
        yield found


def allowing(*ports: int) -> str:
    """Return destinations with ports of localhost, and the public internet."""
    blocks = [
        {"cidr": "127.0.0.1/32", "ports": ports},
        {"cidr": "0.0.0.0/0", "excluded": ["127.0.0.0/8", "169.254.0.0/16"], "ports": [443]},
        {"cidr": "::/0", "excluded": ["::/96", "64:ff9b::/96"], "ports": [443]},
    ]
    return json.dumps({"blocks": blocks, "namespaces": [{"name": "stores", "ports": [9000]}]})


def prepare(
    trainers: dict[str, Server],
    own: Certificate,
    folder: Path,
    source: dict[str, Any],
    allowed: str,
) -> Ended:
    """Run ``prepare`` with a dataset that its job author chose."""
    (folder / "ca").mkdir()
    shutil.copy(own.authority, folder / "ca" / "dataset.crt")
    tiny.model(folder / "claims" / "models")
    job = tiny.job("pvc://models", "hf://demo/rows", dataset=source)
    workshop = Workshop(trainers, folder, folder / "work", job)
    return workshop.run(
        "prepare",
        destinations=json.loads(allowed),
        FINETUNE_CONFIG_DIR=str(folder),
        FINETUNE_SOURCES_DIR=str(folder / "claims"),
        DATASET_AWS_ACCESS_KEY_ID="AKIDEXAMPLE1",
        DATASET_AWS_SECRET_ACCESS_KEY="AKIDEXAMPLE2",
        AWS_EC2_METADATA_DISABLED="true",
    )


def assert_denied(ended: Ended, connections: list[Any], port: int) -> None:
    assert (ended.code, ended.result["reason"]) == (77, "AccessDenied"), ended.log
    assert f"do not allow connections to port {port} of " in ended.message
    assert ended.message.startswith("dataset ")
    assert "egress.cidrs" in ended.message
    assert connections == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433"])
def test_source_at_a_private_address(
    trainers: dict[str, Server],
    own: Certificate,
    tmp_path: Path,
    private: tuple[int, list[Any]],
    host: str,
) -> None:
    port, connections = private
    source = {"source": f"https://{host}:{port}/rows.jsonl", "sha256": DIGEST}
    assert_denied(prepare(trainers, own, tmp_path, source, allowing()), connections, port)


@pytest.mark.parametrize(
    "target", ["https://127.0.0.1:{}/", "https://localhost:{}/", "https://[::ffff:7f00:1]:{}/"]
)
def test_redirect_to_a_private_address(
    trainers: dict[str, Server],
    own: Certificate,
    tmp_path: Path,
    private: tuple[int, list[Any]],
    site: Web,
    target: str,
) -> None:
    port, connections = private
    site.redirects["rows.jsonl"] = target.format(port)
    source = {"source": f"{site.url}/rows.jsonl", "sha256": DIGEST}
    allowed = allowing(int(site.url.rsplit(":", 1)[1]))
    assert_denied(prepare(trainers, own, tmp_path, source, allowed), connections, port)
    assert [path for path, _ in site.requests] == ["rows.jsonl"]


@pytest.mark.parametrize("address", ["169.254.169.254", "[64:ff9b::a9fe:a9fe]"])
def test_redirect_to_a_metadata_service(
    trainers: dict[str, Server], own: Certificate, tmp_path: Path, site: Web, address: str
) -> None:
    site.redirects["rows.jsonl"] = f"https://{address}/latest/meta-data/"
    source = {"source": f"{site.url}/rows.jsonl", "sha256": DIGEST}
    allowed = allowing(int(site.url.rsplit(":", 1)[1]))
    assert_denied(prepare(trainers, own, tmp_path, source, allowed), [], 443)


def test_redirect_of_the_hub(trainers: dict[str, Server], own: Certificate, tmp_path: Path) -> None:
    Echo.status = 302
    try:
        hub = allowing(int(os.environ["HF_ENDPOINT"].rsplit(":", 1)[1]))
        ended = prepare(trainers, own, tmp_path, {"source": "hf://demo/rows"}, hub)
    finally:
        Echo.status = 401
    assert_denied(ended, [], 1)


def test_endpoint_of_an_object_store(
    trainers: dict[str, Server], own: Certificate, tmp_path: Path, private: tuple[int, list[Any]]
) -> None:
    port, connections = private
    source = {"source": "s3://bucket/rows", "s3": {"endpoint": f"https://127.0.0.1:{port}"}}
    assert_denied(prepare(trainers, own, tmp_path, source, allowing()), connections, port)


CLIENTS = {
    "socket": "socket.create_connection((HOST, PORT), 5)",
    "connect_ex": "socket.socket().connect_ex(('127.0.0.1', PORT))",
    "name without a look-up": "socket.socket().connect(('localhost', PORT))",
    "short form": "socket.socket().connect(('127.1', PORT))",
    "IPv4-mapped": "socket.socket(socket.AF_INET6).connect(('::ffff:127.0.0.1', PORT))",
    "datagram": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "datagram with parts": "socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], (), 0, "
    "('127.0.0.1', PORT))",
    "urllib": "urllib.request.urlopen(f'http://{HOST}:{PORT}', timeout=5)",
    "httpx": "httpx.get(f'http://{HOST}:{PORT}')",
    "aiohttp": "asyncio.run(get(f'http://{HOST}:{PORT}'))",
    "rebinding": "rebound()",
    "name like a Service": "httpx.get(f'http://minio.stores.svc.attacker.example:{PORT}')",
    "Service in another namespace": "httpx.get(f'http://payments.billing.svc:{PORT}')",
    "Service at localhost": "httpx.get(f'http://minio.stores.svc:{PORT}')",
}
PROGRAM = """
import asyncio, json, socket, sys, urllib.request
import aiohttp, httpx
from finetune_api.contracts.destinations import Destinations
from finetune_trainer.errors import EgressDenied
from finetune_trainer.sources import egress
PORT, ALLOWED, HOST = int(sys.argv[1]), sys.argv[2], "attacker.example"
answers = {}
real = socket.getaddrinfo
def resolve(host, *arguments, **options):
    return real(answers.get(host, ["127.0.0.1"])[0] if isinstance(host, str) else host,
                *arguments, **options)
socket.getaddrinfo = resolve
egress.Guard(Destinations.model_validate_json(ALLOWED), domains=["cluster.local"]).install()
async def get(url):
    async with aiohttp.ClientSession() as session, session.get(url): pass
def rebound():
    answers["rebinding.example"] = ["93.184.215.14"]
    (first, *_) = socket.getaddrinfo("rebinding.example", 443)
    assert first[4][0] == "93.184.215.14"
    answers["rebinding.example"] = ["127.0.0.1"]
    httpx.get(f"http://rebinding.example:{PORT}")
def outcome(code):
    try:
        eval(code)
    except Exception as error:
        while error is not None:
            if isinstance(error, EgressDenied): return "denied"
            last, error = error, error.__cause__ or error.__context__
        return repr(last)
    return "connected"
print(json.dumps({name: outcome(code) for name, code in json.load(sys.stdin).items()}))
"""


def test_every_client_is_checked(private: tuple[int, list[Any]]) -> None:
    """One process, because the check cannot be removed from a process."""
    port, connections = private
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(port), allowing(port + 1, 443)],
        input=json.dumps(CLIENTS),
        env={"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == dict.fromkeys(CLIENTS, "denied")
    assert connections == []


def test_the_listener_counts_connections(private: tuple[int, list[Any]]) -> None:
    port, connections = private
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        assert connection.recv(1) == b""
    assert len(connections) == 1
