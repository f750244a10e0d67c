"""Conditions: which are there, since when, and what tools read from them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.fakes.apiserver import Thing

from finetune_api.v1alpha1.status.job import Condition
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.objects.stages import MERGE, PIPELINE, PREPARE, TRAIN, JobStage
from finetune_operator.reconcile.conditions import Position, ServingState, conditions

EARLY, LATE = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)
STATES = ("done", "active", "stalled", "failed", "suspended")


def made(
    state: Any,
    *,
    previous: Any = (),
    now: datetime = EARLY,
    stages: Any = None,
    serving: ServingState | None = None,
    succeeded: bool = False,
) -> dict[str, Thing]:
    position = Position(state=state, reason="Because", message="of something")
    found = conditions(
        position,
        previous={each["type"]: each for each in previous},
        generation=3,
        now=now,
        stages=stages or {},
        serving=serving,
        succeeded=succeeded,
    )
    assert len({each["type"] for each in found}) == len(found)
    for each in found:
        Condition.model_validate(each)
    return {each["type"]: each for each in found}


def kstatus(found: dict[str, Thing], *, current: bool = True) -> str:
    """Return what kubectl, Flux and Argo CD make of conditions, by the rules of kstatus."""
    if not current:
        return "InProgress"
    for type_, result in (("Reconciling", "InProgress"), ("Stalled", "Failed")):
        if found.get(type_, {}).get("status") == "True":
            return result
    return "Current" if found["Ready"]["status"] == "True" else "InProgress"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("done", "Current"),
        ("active", "InProgress"),
        ("stalled", "Failed"),
        ("failed", "Failed"),
        ("suspended", "InProgress"),
    ],
)
def test_kstatus_result_of_each_state(state: str, expected: str) -> None:
    found = made(state)
    assert kstatus(found) == expected
    assert found["Ready"]["reason"] == "Because"
    repeated = [type_ for type_, each in found.items() if each["message"] == "of something"]
    assert repeated == ["Ready"], "other conditions refer to it"
    stalled = state in ("stalled", "failed")
    assert ("Reconciling" in found, "Stalled" in found) == (state == "active", stalled)
    assert all(each["observedGeneration"] == 3 for each in found.values())


@pytest.mark.parametrize("state", STATES)
def test_finished_is_true_when_only_an_edit_changes_the_state(state: str) -> None:
    finished = made(state)["Finished"]
    assert finished["status"] == ("True" if state in ("done", "failed") else "False")
    assert finished["reason"] == "Because"


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_transition_time_changes_only_with_the_status(before: str, after: str) -> None:
    first = made(before)
    second = made(after, previous=list(first.values()), now=LATE)
    for type_, each in second.items():
        same = type_ in first and first[type_]["status"] == each["status"]
        expected = "2030-01-01T00:00:00Z" if same else "2030-01-02T00:00:00Z"
        assert each["lastTransitionTime"] == expected, type_


def attempt(outcome: Any, **more: Any) -> Attempt:
    return Attempt(stage="prepare", attempt=2, outcome=outcome, **more)


@pytest.mark.parametrize(
    ("given", "status", "reason"),
    [
        (None, "Unknown", "Pending"),
        (attempt("Starting"), "Unknown", "Starting"),
        (attempt("Running"), "Unknown", "Running"),
        (attempt("Stopped"), "Unknown", "Stopped"),
        (attempt("Completed"), "True", "Completed"),
        (attempt("Failed", reason="LossDiverged", message="nan"), "False", "LossDiverged"),
        (attempt("Failed"), "False", "Failed"),
    ],
)
def test_stage_condition_of_each_outcome(given: Attempt | None, status: str, reason: str) -> None:
    for stage, type_ in zip(PIPELINE, ("DataReady", "Trained", "Merged"), strict=True):
        found = made("active", stages={stage: given})
        assert (found[type_]["status"], found[type_]["reason"]) == (status, reason)
        assert len({"DataReady", "Trained", "Merged"} & found.keys()) == 1


@pytest.mark.parametrize(
    ("state", "outcomes", "status"),
    [
        ("done", ("Completed", "Completed"), "True"),
        ("active", ("Completed", "Completed"), "True"),
        ("stalled", ("Completed", "Completed"), "True"),
        ("active", ("Completed", "Running"), "Unknown"),
        ("active", ("Completed", None), "Unknown"),
        ("failed", ("Completed", "Failed"), "False"),
        ("stalled", ("Completed", "Failed"), "Unknown"),
        ("active", ("Completed", "Failed"), "Unknown"),
        ("suspended", ("Completed", "Failed"), "Unknown"),
        ("stalled", ("Completed", "Running"), "Unknown"),
        ("stalled", (), "Unknown"),
    ],
)
def test_succeeded_condition_of_stage_outcomes(
    state: str, outcomes: tuple[str | None, ...], status: str
) -> None:
    stages = {
        stage: attempt(outcome) if outcome else None
        for stage, outcome in zip((PREPARE, TRAIN), outcomes, strict=False)
    }
    assert made(state, stages=stages)["Succeeded"]["status"] == status


@pytest.mark.parametrize("state", STATES)
def test_succeeded_stays_true_within_a_revision(state: str) -> None:
    stages: dict[JobStage, Attempt | None] = {TRAIN: attempt("Completed"), MERGE: None}
    assert made(state, stages=stages, succeeded=True)["Succeeded"]["status"] == "True"


def test_serving_condition_is_absent_without_serving() -> None:
    assert "Serving" not in made("done")
    state = ServingState(available=True, reason="Available", message="at http://x")
    assert made("done", serving=state)["Serving"]["status"] == "True"
