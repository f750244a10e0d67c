"""``Verification`` from the metrics of a verify container, and its way into the status."""

import dataclasses
from typing import Any

import pytest
from prometheus_client import generate_latest
from tests.fakes.apiserver import CONFIG

import finetune_verify.server
from finetune_operator.objects.index import index
from finetune_operator.reconcile.serving.verification import verification_status
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.snapshot.scraping.exposition import parse
from finetune_operator.snapshot.scraping.verifier_metrics import (
    OUTCOMES,
    loaded,
    requests,
    verification,
)
from finetune_operator.types import Requests, Snapshot, Verification
from finetune_verify.requests import RequestClock
from finetune_verify.server import State
from finetune_verify.verification import Outcome, Verdict


@pytest.fixture(autouse=True)
def _pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_POD_UID", "uid-1")


def scraped(state: State) -> Verification | None:
    series = parse(generate_latest(state.registry), "uid-1")
    assert series is not None
    return verification(series, pod="p", build="b1")


def agreed(
    outcome: Outcome,
    distance: float | None,
    tolerance: float | None,
    smallest_fault: float | None = None,
) -> State:
    """Return the state of a verify container with a verdict."""
    state = State()
    verdict = Verdict(
        outcome=outcome,
        message="",
        distance=distance,
        tolerance=tolerance,
        smallest_fault=smallest_fault,
    )
    state.agreed(verdict, 3.25, answering=1.0)
    return state


def test_a_verdict_is_parsed() -> None:
    found = Verification(
        pod="p",
        build="b1",
        outcome="Verified",
        distance=0.00731,
        tolerance=0.0204,
        smallest_fault=0.031,
        seconds=3.25,
    )
    assert scraped(agreed("Verified", 0.00731, 0.0204, 0.031)) == found
    # No fault would be detected.
    unclear = dataclasses.replace(found, outcome="Inconclusive", smallest_fault=None)
    assert scraped(agreed("Inconclusive", 0.00731, 0.0204)) == unclear
    skipped = Verification(pod="p", build="b1", outcome="Skipped", seconds=3.25)
    assert scraped(agreed("Skipped", None, None)) == skipped


def test_metrics_without_a_verdict_have_no_verification() -> None:
    assert scraped(State()) is None


def test_the_operator_knows_the_outcomes_of_the_verifier() -> None:
    assert finetune_verify.server.OUTCOMES == OUTCOMES


def test_the_status_reports_the_verification_of_the_build() -> None:
    before = {"pod": "x", "build": "b0", "outcome": "Skipped"}
    meta = {"namespace": "a", "name": "demo", "uid": "u", "resourceVersion": "1"}
    job: dict[str, Any] = {"kind": "FineTuneJob", "metadata": meta, "spec": {}}
    snapshot = Snapshot(
        settings=CONFIG,
        job={**job, "status": {"verification": before}},
        verification=scraped(agreed("Verified", 0.00731, 0.0204, 0.031)),
    )
    assert verification_status(index(snapshot), Ledger({}), "b1") == {
        "pod": "p",
        "build": "b1",
        "outcome": "Verified",
        "distance": "0.00731",
        "tolerance": "0.0204",
        "smallestFault": "0.031",
        "seconds": "3.25",
    }
    assert verification_status(index(snapshot), Ledger({}), "b0") == before
    assert verification_status(index(snapshot), Ledger({}), "b9") == {}


def share(state: State) -> float | None:
    series = parse(generate_latest(state.registry), "uid-1")
    assert series is not None
    return loaded(series)


def test_the_share_of_read_bytes_is_parsed() -> None:
    state = State()
    assert share(state) is None, "nothing is measured"
    state.begin(200)
    state.read(50)
    state.read(10)
    assert share(state) == 0.3


@pytest.mark.parametrize(("read", "size", "expected"), [(5, 0, None), (9, 3, 1.0), (0, 3, 0.0)])
def test_an_impossible_share_is_bounded(read: float, size: float, expected: float | None) -> None:
    series = {("finetune_verify_read_bytes", ""): read, ("finetune_verify_size_bytes", ""): size}
    assert loaded(series) == expected


def test_the_requests_of_clients_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    time = 100.0
    state = State()
    monkeypatch.setattr(state, "requests", RequestClock(lambda: time))

    def reported() -> Requests:
        series = parse(generate_latest(state.registry), "uid-1")
        assert series is not None
        return requests(series, pod="uid-1")

    unknown = Requests(pod="uid-1", count=None)
    assert reported() == unknown, "nothing is verified"
    state.agreed(Verdict(outcome="Skipped", message=""), 1.0, answering=1.0)
    state.requests.observe(b'vllm:request_success_total{finished_reason="stop"} 7.0\n')
    state.requests.observe(b'vllm:request_success_total{finished_reason="stop"} 9.0\n')
    time += 1e7
    assert reported() == Requests(pod="uid-1", count=2, idle_seconds=1e7)
    state.wait_for("vLLM to become healthy")
    assert reported() == unknown


def test_an_impossible_time_without_requests_is_bounded() -> None:
    series = {
        ("finetune_verify_requests", ""): 2.0**53,
        ("finetune_verify_idle_seconds", ""): 2.0**53,
    }
    assert requests(series, pod="p") == Requests(pod="p", count=2**53, idle_seconds=3e8)
