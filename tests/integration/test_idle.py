"""An endpoint without requests is stopped and woken, and a sink learns of the job.

The operator is a real process. The serving pods are fake, but their metrics are those of the
verifier.
"""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from tests.integration.test_operator_with_controllers import run_stages
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import CONFIG

from finetune_verify.server import State
from finetune_verify.verification import Verdict

pytestmark = pytest.mark.usefixtures("controller_manager")

WAKE = "finetune.dev/wake"


class Verifier:
    """The metrics of the serving pod; the test sets the time and the requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.now = monkeypatch, 0.0
        self.registry = _Current()
        self._server, _ = start_http_server(0, "127.0.0.1", self.registry)
        self.prelude = (
            "from finetune_operator import delays; "
            "from finetune_operator.snapshot.scraping import verifier_metrics; "
            f"verifier_metrics.PORT = {self._server.server_port}; "
            "delays.SCRAPE = delays.SLOW_SCRAPE = 0.2"
        )

    def verifies(self, uid: str) -> None:
        """Become the verifier of a pod, which has just verified its model."""
        self.monkeypatch.setenv("FINETUNE_POD_UID", uid)
        state = State()
        self.monkeypatch.setattr(state.requests, "_clock", lambda: self.now)
        state.agreed(Verdict(outcome="Skipped", message=""), 1.0, answering=1.0)
        self.registry.now = state.registry

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Current(CollectorRegistry):
    """The registry of the present pod."""

    def __init__(self) -> None:
        super().__init__()
        self.now = CollectorRegistry()

    def collect(self) -> Any:
        return self.now.collect()


class Sink:
    """An HTTP server that stores events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.events.append(json.loads(body))
                outer.tokens.add(self.headers["Authorization"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Suppress the log."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/events"

    def types(self) -> list[str]:
        return [each["type"] for each in self.events]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch) -> Iterator[Verifier]:
    found = Verifier(monkeypatch)
    yield found
    found.close()


@pytest.fixture
def sink() -> Iterator[Sink]:
    found = Sink()
    yield found
    found.close()


def replicas(place: Namespace) -> list[int]:
    return [each["spec"]["replicas"] for each in place.items("deployments")]


def serving_pod(place: Namespace, *known: str) -> str:
    """Return the uid of the new serving pod."""
    (uid,) = (
        each["metadata"]["uid"]
        for each in place.items("pods")
        if each["metadata"]["labels"].get("finetune.dev/stage") == "serve"
        and each["metadata"]["uid"] not in known
    )
    return str(uid)


def test_an_endpoint_without_requests_is_stopped_and_woken(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path, verifier: Verifier
) -> None:
    with operatorprocess.operator(control_plane, tmp_path, prelude=verifier.prelude) as operator:
        place.submit(spec={"serving": {"idle": {"afterSeconds": 3600}}})
        run_stages(place, "Serving")
        first = serving_pod(place)
        verifier.verifies(first)
        verifier.now += 3599
        operator.settled()
        assert replicas(place) == [1]
        verifier.now += 1
        wait_until("the endpoint is idle", lambda: place.reason() == "Idle")
        wait_until("it has no pods", lambda: replicas(place) == [0])
        since = place.job()["status"]["serving"]["idleSince"]
        path = place.path("finetunejobs", "demo")
        control_plane.merge(path, {"metadata": {"annotations": {WAKE: since}}})
        operator.settled()
        assert replicas(place) == [0], "the time is not later"
        wait_until("a second has passed", lambda: _now() > since)
        known = {each["metadata"]["uid"] for each in place.items("pods")}
        control_plane.merge(path, {"metadata": {"annotations": {WAKE: _now()}}})
        run_stages(place, "Serving", known=known)
        verifier.verifies(serving_pod(place, *known))
        operator.settled()
        assert replicas(place) == [1]
        assert "idleSince" not in place.job()["status"]["serving"]
        assert operator.failures() == []


def test_a_sink_gets_the_events_of_a_job_once(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path, sink: Sink
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token\n")
    config = {**CONFIG, "sink": {"url": sink.url, "tokenFile": str(token)}}
    both = ["fine_tuning.job.succeeded", "fine_tuning.job.ready"]
    with operatorprocess.operator(control_plane, tmp_path, config) as operator:
        place.submit()
        run_stages(place, "Serving")
        wait_until("the sink has both events", lambda: sink.types() == both)
        operator.settled()
        assert operator.metric("finetune_notifications_total", result="sent") == 2
        assert operator.metric("finetune_notifications_pending") == 0
        assert operator.failures() == []
    assert sink.types() == both
    assert sink.tokens == {"Bearer a-token"}
    assert {each["data"]["name"] for each in sink.events} == {"demo"}
    # The next leader may repeat the events of the last minute, with the same ids.
    ids = {each["id"] for each in sink.events}
    with operatorprocess.operator(control_plane, tmp_path, config) as operator:
        path = place.path("finetunejobs", "demo")
        control_plane.merge(path, {"spec": {"rerun": "again", "suspend": True}})
        paused = "fine_tuning.job.paused"
        wait_until("the sink learns of the pause", lambda: paused in sink.types())
        operator.settled()
    new = {each["id"] for each in sink.events} - ids
    assert len(new) == 1
    assert max(sink.types().count(type_) for type_ in both) <= 2


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
