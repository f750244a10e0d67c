"""A pod of one job answers scrapes with hostile responses; other jobs are reconciled as usual."""

import gzip
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fakes import kubelet
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.busy_machine import fastest

OK = b"HTTP/1.1 200 OK\r\n"
MIB = 1 << 20
SCRAPES = 5
"""Further scrapes that an attack lasts, one per ``delays.SCRAPE``."""
INTERVAL_SECONDS = 0.2
LIMIT_SECONDS = 1.0
"""Time until another job has its first child."""
ANSWERS: dict[str, bytes] = {
    "compression bomb": OK
    + b"Content-Encoding: gzip\r\n\r\n"
    + gzip.compress(b"#" + b" " * MIB + "💣".encode()),
    "comment of a MiB": OK + b"\r\n#" + b" " * MIB + "💣".encode() + b"\n",
    "one-byte chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n#\r\n" * 300_000,
    "interim responses": b"HTTP/1.1 100 Continue\r\n\r\n" * 40_000,
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
    "huge numbers": OK
    + b"\r\n"
    + b'finetune_pod_info{uid="UID"} 1\nfinetune_download_bytes 1e300\n'
    + b"finetune_download_size_bytes "
    + b"9" * 900
    + b"\nfinetune_global_step \xd9\xa3\n",
    "silence": b"",
}


class HostilePod:
    """A server that counts connections and answers each with the same bytes, then stays silent."""

    def __init__(self) -> None:
        self.answer = b""
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(4096)
                connection.sendall(self.answer)
                connection.settimeout(10)
                # Silence, until the operator closes the connection.
                connection.recv(1)
            except OSError:
                return

    def wait_for_scrapes(self, count: int) -> None:
        wait_until("the pod is scraped", lambda: self.connections >= count)

    def close(self) -> None:
        self._server.close()


@contextmanager
def hostile_pod() -> Iterator[HostilePod]:
    pod = HostilePod()
    try:
        yield pod
    finally:
        pod.close()


def seconds_until_staged(place: Namespace, name: str) -> float:
    """Submit a job; return the seconds until its first child exists."""
    began = time.monotonic()
    place.submit(name)
    wait_until(
        f"{name} has a child",
        lambda: any(
            each["metadata"]["labels"].get("finetune.dev/job") == name
            for each in place.items("persistentvolumeclaims")
        ),
    )
    return time.monotonic() - began


def test_a_hostile_pod_delays_no_other_job(
    control_plane: ControlPlane,
    place: Namespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with hostile_pod() as hostile:
        prelude = (
            "from finetune_operator import delays\n"
            "from finetune_operator.snapshot.scraping import trainer_metrics\n"
            f"trainer_metrics.PORT = {hostile.port}\n"
            f"delays.SCRAPE = {INTERVAL_SECONDS}"
        )
        with operatorprocess.operator(control_plane, tmp_path, prelude=prelude) as operator:
            seconds_until_staged(place, "warm-up")
            uid = attack(place)
            for number, (name, answer) in enumerate(ANSWERS.items()):
                hostile.answer = answer.replace(b"UID", uid.encode())
                before = hostile.connections
                names = (f"other-{number}-{attempt}" for attempt in itertools.count())
                # The attack lasts: it is repeated with every scrape.
                seconds = fastest(
                    lambda names=names: seconds_until_staged(place, next(names)),  # type: ignore[misc]
                    limit=LIMIT_SECONDS,
                )
                hostile.wait_for_scrapes(before + SCRAPES)
                with capsys.disabled():
                    print(f"\n{name}: another job has its first child after {seconds:.2f} s")
                assert seconds < LIMIT_SECONDS
                assert operator.get("/healthz") == (200, "ok")
            assert operator.failures() == []
            assert "unexpected error" not in operator.log.read_text()
            assert place.job("evil")["status"].get("preparation", {}) == {}


def attack(place: Namespace) -> str:
    """Create a job whose prepare pod has the address of the hostile server; return its uid."""
    place.submit("evil")
    place.wait_until_preparing("evil")
    (run,) = (
        each
        for each in place.items("jobs")
        if each["metadata"]["labels"]["finetune.dev/job"] == "evil"
    )
    pod = place.plane.post(
        place.path("pods"),
        {
            "metadata": {
                "name": "evil",
                "labels": run["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": run["metadata"]["name"],
                        "uid": run["metadata"]["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": {"containers": [{"name": "trainer", "image": "registry.test/evil:1"}]},
        },
    )
    kubelet.report(place, pod, kubelet.running() | {"podIP": "127.0.0.1"})
    return str(pod["metadata"]["uid"])
