"""What a serving pod's metrics say of its verification, and what of it the status tells."""

from typing import Any

import pytest
from prometheus_client import generate_latest
from tests.fakes.kube_client import MemoryKube

from finetune_operator.reconcile.serving.verification import verification_status
from finetune_operator.snapshot.reader import observe
from finetune_operator.snapshot.verifier_metrics import parsed, untold
from finetune_operator.types import Snapshot, Verification
from finetune_verify.server import State
from finetune_verify.verification import Verdict

READY = {"type": "Ready", "status": "True"}


def job(**verification: str) -> dict[str, Any]:
    meta = {"namespace": "a", "name": "demo", "uid": "u", "resourceVersion": "1"}
    status = {"verification": verification}
    return {"kind": "FineTuneJob", "metadata": meta, "spec": {}, "status": status}


def pod(name: str, build: str = "b1", created: str = "1", ready: str = "True") -> dict[str, Any]:
    labels = {"finetune.dev/job": "demo", "finetune.dev/stage": "serve"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "a",
            "name": name,
            "uid": name,
            "labels": {**labels, "finetune.dev/build": build},
            "creationTimestamp": created,
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.9",
            "conditions": [{**READY, "status": ready}],
        },
    }


def said(outcome: str, distance: float | None, tolerance: float | None) -> str:
    """Return the metrics of a container that came to a verdict."""
    state = State()
    verdict = Verdict(outcome=outcome, message="", distance=distance, tolerance=tolerance)  # type: ignore[arg-type]
    state.agreed(verdict, 3.25, answering=1.0)
    return generate_latest(state.registry).decode()


def test_it_reads_what_the_container_says() -> None:
    found = parsed(said("Verified", 0.00731, 0.0204), pod("p"))
    assert found == Verification(
        pod="p", build="b1", outcome="Verified", distance=0.00731, tolerance=0.0204, seconds=3.25
    )
    skipped = parsed(said("Skipped", None, None), pod("p"))
    assert skipped == Verification(pod="p", build="b1", outcome="Skipped", seconds=3.25)


def test_before_the_verdict_there_is_nothing_to_read() -> None:
    assert parsed(generate_latest(State().registry).decode(), pod("p")) is None
    assert parsed("no metrics {", pod("p")) is None


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ({}, "new"),
        ({"pod": "old", "build": "b1"}, "new"),
        ({"pod": "gone", "build": "b2"}, "new"),
        ({"pod": "new", "build": "b2"}, "old"),
    ],
)
def test_a_pod_that_is_not_told_of_is_asked(told: dict[str, str], asked: str) -> None:
    pods = [pod("old"), pod("new", "b2", created="2"), pod("late", "b3", "3", ready="False")]
    found = untold(job(**told), pods)
    assert found is not None
    assert found["metadata"]["name"] == asked


def test_one_that_is_told_of_is_not_asked_again() -> None:
    assert untold(job(pod="p", build="b1"), [pod("p"), pod("q")]) is None


async def test_the_status_tells_of_the_build_that_serves() -> None:
    async def scrape(address: str, port: int) -> str | None:
        assert (address, port) == ("10.0.0.9", 9401)
        return said("Verified", 0.00731, 0.0204)

    before = {"pod": "x", "build": "b0", "outcome": "Skipped"}
    snapshot = await observe(MemoryKube(job(**before), pod("p")), "a", "demo", scrape)
    assert isinstance(snapshot, Snapshot)
    assert verification_status(snapshot, "b1") == {
        "pod": "p",
        "build": "b1",
        "outcome": "Verified",
        "distance": "0.00731",
        "tolerance": "0.0204",
        "seconds": "3.25",
    }
    assert verification_status(snapshot, "b0") == before
    assert verification_status(snapshot, "b9") == {}
