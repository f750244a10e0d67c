"""The ledger: attempts are replaced in place, findings are kept, and a status restores it."""

from typing import Any

import pytest

from finetune_api.v1alpha1.ledger import Attempt
from finetune_operator.revisions.ledger import Ledger


def attempt(
    stage: Any, number: int = 1, build: str | None = None, outcome: Any = "Running"
) -> Attempt:
    return Attempt(stage=stage, build=build, attempt=number, outcome=outcome)


def test_an_empty_ledger_has_no_attempts() -> None:
    ledger = Ledger()
    assert ledger.attempt("r", "train") is None
    assert ledger.revision("r").stages == []
    assert ledger.to_status() == []


def test_a_new_attempt_replaces_the_previous_one_in_its_place() -> None:
    ledger = Ledger()
    for each in (attempt("prepare"), attempt("train"), attempt("merge", build="b")):
        ledger = ledger.with_attempt("r", each)
    ledger = ledger.with_attempt("r", attempt("train", 2, outcome="Completed"))
    stages = ledger.revision("r").stages
    assert [(each.stage, each.attempt, each.outcome) for each in stages] == [
        ("prepare", 1, "Running"),
        ("train", 2, "Completed"),
        ("merge", 1, "Running"),
    ]


def test_builds_of_one_revision_are_kept_apart() -> None:
    ledger = Ledger()
    ledger = ledger.with_attempt("r", attempt("merge", 1, "b1", "Completed"))
    ledger = ledger.with_attempt("r", attempt("merge", 2, "b2"))
    first, second = (ledger.attempt("r", "merge", build) for build in ("b1", "b2"))
    assert first is not None
    assert second is not None
    assert (first.outcome, second.outcome) == ("Completed", "Running")
    assert ledger.attempt("r", "merge") is None


def test_revisions_are_kept_apart_and_in_order() -> None:
    ledger = Ledger()
    ledger = ledger.with_attempt("new", attempt("prepare"))
    ledger = ledger.with_attempt("old", attempt("prepare"))
    ledger = ledger.with_attempt("new", attempt("train"))
    assert [each["revision"] for each in ledger.to_status()] == ["new", "old"]


def test_a_ledger_survives_the_status() -> None:
    ledger = Ledger()
    ledger = ledger.with_attempt(
        "r", attempt("merge", 3, "b", "Failed").model_copy(update={"retry_key": "k"})
    )
    ledger = ledger.with_findings("r", {"adapter": "sha256:1", "rows": 7})
    status = ledger.to_status()
    assert status == [
        {
            "revision": "r",
            "stages": [
                {
                    "stage": "merge",
                    "build": "b",
                    "attempt": 3,
                    "outcome": "Failed",
                    "retryKey": "k",
                }
            ],
            "artifacts": {"adapter": "sha256:1"},
            "data": {"rows": 7},
        }
    ]
    assert Ledger.parse(status).to_status() == status


def test_findings_of_several_stages_are_merged() -> None:
    ledger = Ledger()
    ledger = ledger.with_findings("r", {"baseCommit": "c", "rows": 10, "plannedSteps": 4})
    ledger = ledger.with_findings("r", {"adapter": "sha256:1"})
    ledger = ledger.with_findings("r", {"adapter": "sha256:2", "mergedDtype": "float16"})
    artifacts, data = ledger.revision("r").artifacts, ledger.revision("r").data
    assert (artifacts.base_commit, artifacts.adapter, artifacts.merged_dtype) == (
        "c",
        "sha256:2",
        "float16",
    )
    assert (data.rows, data.planned_steps) == (10, 4)


@pytest.mark.parametrize(
    "findings", [{"rows": "many"}, {"adapter": 5}, {"merged": ["x"]}, {"later": {"version": 2}}]
)
def test_findings_of_an_unknown_form_are_ignored(findings: dict[str, Any]) -> None:
    ledger = Ledger()
    ledger = ledger.with_findings("r", {"baseCommit": "c", **findings})
    assert ledger.to_status() == [
        {"revision": "r", "stages": [], "artifacts": {"baseCommit": "c"}, "data": {}}
    ]


def test_unknown_fields_of_a_newer_operator_are_ignored() -> None:
    ledger = Ledger.parse([{"revision": "r", "stages": [{**STAGE, "novel": 1}], "novel": {"a": 1}}])
    found = ledger.attempt("r", "train")
    assert found is not None
    assert found.attempt == 2


STAGE = {"stage": "train", "attempt": 2, "outcome": "Completed"}


def test_a_ledger_never_changes() -> None:
    ledger = Ledger().with_attempt("r", attempt("train")).with_findings("r", {"rows": 10})
    before = ledger.to_status()
    ledger.with_attempt("r", attempt("train", 2))
    ledger.with_attempt("other", attempt("prepare"))
    ledger.with_findings("r", {"rows": 11})
    ledger.with_gpu_seconds("r", 5)
    ledger.with_volume("r", "uid")
    ledger.with_lost_volume("r", "VolumeLost")
    ledger.with_target("r")
    ledger.without(["r"])
    assert ledger.to_status() == before


def test_the_most_recent_target_is_the_last_revision() -> None:
    ledger = Ledger().with_attempt("a", attempt("train")).with_attempt("b", attempt("train"))
    assert ledger.with_target("a").names() == ["b", "a"]
    assert ledger.with_target("b") is ledger
    assert ledger.with_target("unknown") is ledger


def test_gpu_seconds_add_up_over_volumes_and_never_decrease() -> None:
    ledger = Ledger().with_attempt("r", attempt("train")).with_gpu_seconds("r", 100)
    assert ledger.with_gpu_seconds("r", 40).revision("r").gpu_seconds == 100
    assert ledger.with_gpu_seconds("r", None) is ledger
    lost = ledger.with_lost_volume("r", "VolumeLost")
    assert lost.with_gpu_seconds("r", 40).revision("r").gpu_seconds == 140
