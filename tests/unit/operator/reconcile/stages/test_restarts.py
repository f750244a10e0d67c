"""Each restart of a stage is counted once, as a failure, a disruption or a preemption."""

from typing import Any

import pytest

from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.reconcile.stages import restarts


def attempt(**fields: Any) -> Attempt:
    return Attempt.model_validate(
        {"stage": "train", "attempt": 1, "outcome": "Running", **fields}, by_name=True
    )


def pod(number: int, *, failed: bool = False, disrupted: bool = False, gone: bool = False) -> Any:
    metadata = {"uid": f"p{number}", "creationTimestamp": f"t{number}"}
    if gone:
        metadata["deletionTimestamp"] = "t9"
    target = [{"type": "DisruptionTarget", "status": "True"}] if disrupted else []
    return {
        "metadata": metadata,
        "status": {"phase": "Failed" if failed else "Running", "conditions": target},
    }


RUNS: dict[str, Any] = {"spec": {}}
SUSPENDED: dict[str, Any] = {"spec": {"suspend": True}}
KNOWN = {"pod": "p1", "pod_created": "t1"}


@pytest.mark.parametrize(
    ("before", "job", "pods", "changes"),
    [
        ({}, RUNS, [], {}),
        ({}, RUNS, [pod(1)], {**KNOWN}),
        (KNOWN, RUNS, [pod(1)], {}),
        (KNOWN, RUNS, [pod(1, failed=True)], {}),
        (
            KNOWN,
            RUNS,
            [pod(1, failed=True), pod(2)],
            {"pod": "p2", "pod_created": "t2", "failures": 1},
        ),
        (
            KNOWN,
            RUNS,
            [pod(1, failed=True, disrupted=True), pod(2)],
            {"pod": "p2", "pod_created": "t2", "disruptions": 1},
        ),
        (KNOWN, RUNS, [pod(2)], {"pod": "p2", "pod_created": "t2", "disruptions": 1}),
        (
            {**KNOWN, "failures": 1, "disruptions": 1},
            RUNS,
            [pod(2, failed=True), pod(3, failed=True), pod(4)],
            {"pod": "p4", "pod_created": "t4", "failures": 3, "disruptions": 2},
        ),
        (KNOWN, RUNS, [pod(2, gone=True)], {}),
        (
            KNOWN,
            RUNS,
            [pod(2, gone=True, failed=True)],
            {"pod": "p2", "pod_created": "t2", "disruptions": 1},
        ),
        ({"pod_created": "t1"}, RUNS, [pod(1)], {}),
        ({"pod_created": "t1"}, RUNS, [pod(2)], {"pod": "p2", "pod_created": "t2"}),
        ({}, SUSPENDED, [pod(1)], {}),
        (KNOWN, SUSPENDED, [pod(1)], {"pod": None, "preemptions": 1}),
        ({**KNOWN, "preemptions": 1}, SUSPENDED, [], {"pod": None, "preemptions": 2}),
    ],
)
def test_restarts_are_counted(before: Any, job: Any, pods: Any, changes: Any) -> None:
    assert restarts.counted(attempt(**before), job, pods) == attempt(**{**before, **changes})


@pytest.mark.parametrize(
    ("last", "counters"),
    [
        ({"outcome": "Stopped"}, (2, 3, 4)),
        ({"outcome": "Failed", "reason": "OutOfMemory"}, (3, 3, 4)),
        ({"outcome": "Stopped", "reason": "OutOfMemory"}, (3, 3, 4)),
        ({"outcome": "Failed", "reason": "TooManyRestarts"}, (2, 3, 4)),
        ({"outcome": "Running", "reason": "FailedToStart"}, (2, 3, 4)),
        *(
            ({"outcome": "Stopped", "reason": reason}, (2, 4, 4))
            for reason in ("JobDeleted", "JobReplaced", "VolumeLost", "Stopped")
        ),
    ],
)
def test_another_attempt_begins_with_the_counters_of_the_last(
    last: Any, counters: tuple[int, int, int]
) -> None:
    before = attempt(failures=2, disruptions=3, preemptions=4, **last)
    failures, disruptions, preemptions = counters
    assert restarts.carried(before) == {
        "failures": failures,
        "disruptions": disruptions,
        "preemptions": preemptions,
    }


def test_the_first_attempt_has_no_counters() -> None:
    assert restarts.carried(None) == {}
    assert restarts.capped(attempt()) == 0


def test_failures_and_disruptions_count_towards_the_limit() -> None:
    many = attempt(failures=2, disruptions=3, preemptions=4)
    assert restarts.capped(many) == 5
    assert restarts.too_many(many, 4) == many.model_copy(
        update={
            "outcome": "Failed",
            "reason": "TooManyRestarts",
            "message": "The train stage restarted 5 times, but spec.runPolicy.maxRestarts is 4. "
            "To resume, raise this limit to at least 5.",
        }
    )
