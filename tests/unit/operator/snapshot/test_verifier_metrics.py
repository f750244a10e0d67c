"""Parsing of the metrics of a verify container, and the pods that are scraped for it."""

from typing import Any

import pytest
from prometheus_client import generate_latest
from tests.fakes.kube_client import MemoryKube

from finetune_operator.objects.index import index
from finetune_operator.reconcile.serving.verification import verification_status
from finetune_operator.snapshot.reader import read
from finetune_operator.snapshot.verifier_metrics import (
    parse,
    parse_loaded,
    starting_pod,
    unreported_pod,
)
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


def metrics(outcome: str, distance: float | None, tolerance: float | None) -> str:
    """Return the metrics of a verify container with a verdict."""
    state = State()
    verdict = Verdict(outcome=outcome, message="", distance=distance, tolerance=tolerance)  # type: ignore[arg-type]
    state.agreed(verdict, 3.25, answering=1.0)
    return generate_latest(state.registry).decode()


def test_a_verdict_is_parsed() -> None:
    verified = parse(metrics("Verified", 0.00731, 0.0204), pod("p"))
    assert verified == Verification(
        pod="p", build="b1", outcome="Verified", distance=0.00731, tolerance=0.0204, seconds=3.25
    )
    skipped = parse(metrics("Skipped", None, None), pod("p"))
    assert skipped == Verification(pod="p", build="b1", outcome="Skipped", seconds=3.25)


def test_metrics_without_a_verdict_have_no_verification() -> None:
    assert parse(generate_latest(State().registry).decode(), pod("p")) is None
    assert parse("no metrics {", pod("p")) is None


@pytest.mark.parametrize(
    ("reported", "scraped"),
    [
        ({}, "new"),
        ({"pod": "old", "build": "b1"}, "new"),
        ({"pod": "gone", "build": "b2"}, "new"),
        ({"pod": "new", "build": "b2"}, "old"),
    ],
)
def test_a_ready_pod_without_a_reported_verification_is_scraped(
    reported: dict[str, str], scraped: str
) -> None:
    pods = [pod("old"), pod("new", "b2", created="2"), pod("late", "b3", "3", ready="False")]
    target = unreported_pod(job(**reported), pods)
    assert target is not None
    assert target["metadata"]["name"] == scraped


def test_a_reported_verification_is_not_scraped_again() -> None:
    assert unreported_pod(job(pod="p", build="b1"), [pod("p"), pod("q")]) is None


async def test_the_status_reports_the_verification_of_the_build() -> None:
    async def scrape(address: str, port: int) -> str | None:
        assert (address, port) == ("10.0.0.9", 9401)
        return metrics("Verified", 0.00731, 0.0204)

    before = {"pod": "x", "build": "b0", "outcome": "Skipped"}
    snapshot = await read(MemoryKube(job(**before), pod("p")), ("a", "demo"), scrape)
    assert isinstance(snapshot, Snapshot)
    assert verification_status(index(snapshot), "b1") == {
        "pod": "p",
        "build": "b1",
        "outcome": "Verified",
        "distance": "0.00731",
        "tolerance": "0.0204",
        "seconds": "3.25",
    }
    assert verification_status(index(snapshot), "b0") == before
    assert verification_status(index(snapshot), "b9") == {}


def test_the_share_of_read_bytes_is_parsed() -> None:
    state = State()
    assert parse_loaded(generate_latest(state.registry).decode()) is None, "nothing is measured"
    state.begin(200)
    state.read(50)
    state.read(10)
    assert parse_loaded(generate_latest(state.registry).decode()) == 0.3


@pytest.mark.parametrize(
    ("read", "size", "loaded"),
    [("5", "0", None), ("NaN", "1", None), ("1", "+Inf", None), ("9", "3", 1.0), ("-1", "3", 0.0)],
)
def test_an_impossible_share_is_bounded(read: str, size: str, loaded: float | None) -> None:
    text = f"finetune_verify_read_bytes {read}\nfinetune_verify_size_bytes {size}\n"
    assert parse_loaded(text) == loaded


def test_a_starting_pod_of_the_target_build_is_scraped() -> None:
    target = {**job(), "status": {"build": "b2"}}
    pods = [
        pod("old", "b1", ready="False"),
        pod("first", "b2", created="1", ready="False"),
        pod("second", "b2", created="2", ready="False"),
        pod("ready", "b2", created="3"),
    ]
    found = starting_pod(target, pods)
    assert found is not None
    assert found["metadata"]["name"] == "second"
    assert starting_pod(job(), pods) is None, "no build is known"


async def test_the_progress_of_loading_is_in_the_snapshot() -> None:
    async def scrape(address: str, port: int) -> str | None:
        return "finetune_verify_read_bytes 1\nfinetune_verify_size_bytes 4\n"

    target = {**job(), "status": {"build": "b1"}}
    snapshot = await read(MemoryKube(target, pod("p", ready="False")), ("a", "demo"), scrape)
    assert snapshot is not None
    assert snapshot.loaded == 0.25
