"""The recorder of the end-to-end tests, on a real API server."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tests.integration.relay import PASS, Outcome, Relay, answer, relay
from tests.support.api_server.controlplane import PATIENCE_SECONDS, ControlPlane
from tests.support.api_server.namespace import Namespace
from tests.support.local_cluster.kubectl import Kubectl
from tests.support.local_cluster.recorder import WATCHED, Recorder, WaitTimeout

KIND = "FineTuneJob"


@pytest.fixture
def between(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Relay]:
    """A relay to a ``kubectl proxy``."""
    program = control_plane.assets / "kubectl"
    kubectl = Kubectl(program=program, kubeconfig=control_plane.kubeconfig)
    with (
        kubectl.proxy() as (host, port),
        relay(replace(control_plane, server=f"http://{host}:{port}"), tmp_path) as found,
    ):
        yield found


@contextmanager
def recording(between: Relay) -> Iterator[Recorder]:
    """Record FineTuneJobs through a relay until the end of the block."""
    way = yaml.safe_load(between.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    host, _, port = way.removeprefix("http://").partition(":")
    recorder, ready = Recorder((host, int(port)), {KIND: WATCHED[KIND]}), threading.Event()
    # The thread ends after the end of the relay, with its watch.
    threading.Thread(target=recorder.follow, args=(KIND, ready), daemon=True).start()
    assert ready.wait(PATIENCE_SECONDS)
    yield recorder
    recorder.close()


def test_a_watch_that_breaks_off_loses_and_repeats_no_event(
    between: Relay, place: Namespace
) -> None:
    names = [f"job-{number}" for number in range(4)]
    busy: list[Outcome] = []
    between.decide = lambda call: busy.pop() if busy and call.watches else PASS
    with recording(between) as record:
        for name in names:
            place.submit(name, suspend=True)
            record.wait(
                f"{name} is recorded",
                lambda name=name: record.find(KIND, place.name, name),  # type: ignore[misc]
                seconds=PATIENCE_SECONDS,
            )
            busy.append(answer(429))
            between.cut_watches()
        found = [event.key[1] for event in record.events(KIND, place.name)]
    assert found == names


def test_waiting_ends_only_without_progress() -> None:
    reached = itertools.chain([1, 2, 3], itertools.repeat(3))
    begin = time.monotonic()
    with pytest.raises(WaitTimeout, match="the job is Ready: no progress within 0 s"):
        Recorder(("localhost", 1), {}).wait(
            "the job is Ready", lambda: None, seconds=0.1, progress=lambda: next(reached)
        )
    assert time.monotonic() - begin > 0.25
