"""Which plans are confirmed by a live read, and by which kinds."""

from typing import Any

import pytest
from tests.fakes.apiserver import CONFIG
from tests.fakes.kube_client import child, job

from finetune_operator.actions import Action, Apply, Create, Delete
from finetune_operator.reconcile.confirmation import ALL_KINDS, confirmation
from finetune_operator.types import Plan, Snapshot

OF_STAGES = {"Job", "Pod", "PersistentVolumeClaim"}


def revisions(*stages: tuple[str, int, str], name: str = "r1") -> list[dict[str, Any]]:
    found = [
        {"stage": stage, "attempt": number, "outcome": outcome} for stage, number, outcome in stages
    ]
    return [{"revision": name, "stages": found}]


def stage_job(stage: str) -> Any:
    each = child("Job", f"demo-{stage}")
    each["metadata"]["labels"]["finetune.dev/stage"] = stage
    return each


@pytest.mark.parametrize(
    ("actions", "cause", "kinds"),
    [
        ([Delete(object=stage_job("train"))], "delete", ALL_KINDS),
        ([Create(object=stage_job("train"))], "train", OF_STAGES),
        ([Create(object=stage_job("prepare"))], "", set()),
        ([Apply(object=child("Service", "s"))], "", set()),
        ([], "", set()),
    ],
)
def test_the_confirmation_of_actions(actions: list[Action], cause: str, kinds: set[str]) -> None:
    found = confirmation(
        Snapshot(settings=CONFIG, job=job()), Plan(status={}, actions=tuple(actions))
    )
    assert found.cause == cause
    assert found.kinds == kinds


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ([], revisions(("train", 1, "Starting")), ""),
        (revisions(("train", 1, "Starting")), revisions(("train", 1, "Running")), ""),
        (revisions(("train", 1, "Running")), revisions(("train", 1, "Completed")), ""),
        (revisions(("train", 1, "Running")), revisions(("train", 1, "Failed")), "attempt"),
        (revisions(("train", 1, "Running")), revisions(("train", 1, "Stopped")), "attempt"),
        (revisions(("train", 1, "Running")), revisions(("train", 2, "Starting")), "attempt"),
        (revisions(("train", 1, "Completed")), revisions(("train", 1, "Stopped")), "attempt"),
        (revisions(("train", 1, "Failed")), revisions(("train", 2, "Starting")), ""),
        (revisions(("serve", 1, "Running")), revisions(("serve", 1, "Failed")), ""),
        (revisions(), revisions(name="r2"), "revision"),
        (revisions(), [*revisions(), *revisions(name="r2")], ""),
    ],
)
def test_conclusions_from_absence_are_confirmed(before: Any, after: Any, cause: str) -> None:
    """A missing Job, volume, pod or result ends an attempt; a result alone completes it."""
    found = confirmation(
        Snapshot(settings=CONFIG, job=job(revisions=before)),
        Plan(status={"revisions": after}),
    )
    assert found.cause == cause


def ready(reason: str) -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "status": "False", "reason": reason}]}


@pytest.mark.parametrize(
    ("before", "cause", "kinds"),
    [("Serving", "volume", {"PersistentVolumeClaim"}), ("VolumeLost", "", set())],
)
def test_a_lost_volume_is_confirmed_once(before: str, cause: str, kinds: set[str]) -> None:
    found = confirmation(
        Snapshot(settings=CONFIG, job=job(**ready(before))),
        Plan(status=ready("VolumeLost")),
    )
    assert found.cause == cause
    assert found.kinds == kinds
