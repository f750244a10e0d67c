"""The ledger: attempts are replaced in place, artifacts are kept, and a status restores it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_api.contracts.result import MergeArtifacts, PrepareArtifacts
from finetune_api.v1alpha1.resources import Estimate
from finetune_api.v1alpha1.status.artifacts import TrainArtifacts
from finetune_api.v1alpha1.status.ledger import Attempt, FrozenConfiguration
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.versions import LEDGER_VERSION, UnsupportedVersion

FROZEN = FrozenConfiguration(
    digest="d" * 64, job_digest="e" * 64, operator_digest="f" * 64, operator="{}"
)

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


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


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ((), False),
        ((attempt("train"),), False),
        ((attempt("train", outcome="Completed"),), True),
        ((attempt("train", outcome="Completed"), attempt("merge", 1, "b")), True),
        (
            (attempt("train", outcome="Completed"), attempt("merge", 1, "b", "Failed")),
            False,
        ),
        (
            (
                attempt("train", outcome="Completed"),
                attempt("merge", 1, "b", "Completed"),
                attempt("serve", 1, "b", "Failed"),
            ),
            False,
        ),
        (
            (
                attempt("train", outcome="Completed"),
                attempt("serve", 1, "b", "Failed"),
                attempt("merge", 1, "c", "Completed"),
            ),
            True,
        ),
        (
            (
                attempt("train", outcome="Completed"),
                attempt("serve", 1, "b", "Completed"),
                attempt("merge", 1, "c", "Failed"),
            ),
            True,
        ),
    ],
    ids=[
        "not started",
        "in training",
        "trained",
        "is merged",
        "cannot be merged",
        "failed its verification",
        "another build can still serve",
        "has served",
    ],
)
def test_a_revision_has_a_model_that_can_be_served(
    attempts: tuple[Attempt, ...], expected: bool
) -> None:
    ledger = Ledger()
    for each in attempts:
        ledger = ledger.with_attempt("r", each)
    assert ledger.has_model("r") is expected


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
    ledger = ledger.with_artifacts("r", TrainArtifacts(adapter="sha256:1"))
    ledger = ledger.with_artifacts("r", PrepareArtifacts(rows=7))
    ledger = ledger.with_start("r", FROZEN, attempt("train"))
    status = ledger.to_status()
    assert status == [
        {
            "revision": "r",
            "frozen": {
                "digest": "d" * 64,
                "jobDigest": "e" * 64,
                "operatorDigest": "f" * 64,
                "operator": "{}",
            },
            "stages": [
                {
                    "stage": "merge",
                    "build": "b",
                    "attempt": 3,
                    "outcome": "Failed",
                    "retryKey": "k",
                },
                {"stage": "train", "attempt": 1, "outcome": "Running"},
            ],
            "artifacts": {"adapter": "sha256:1"},
            "data": {"rows": 7},
        }
    ]
    assert Ledger.parse(status).to_status() == status


def test_artifacts_of_several_stages_are_merged() -> None:
    ledger = Ledger()
    prepared = PrepareArtifacts(base_commit="c", rows=10, planned_steps=4, card="NVIDIA-L4")
    for each in (
        prepared,
        TrainArtifacts(adapter="sha256:1"),
        TrainArtifacts(adapter="sha256:2"),
        MergeArtifacts(merged_dtype="float16"),
    ):
        ledger = ledger.with_artifacts("r", each)
    artifacts, data = ledger.revision("r").artifacts, ledger.revision("r").data
    assert ledger.revision("r").estimate == Estimate(card="NVIDIA-L4")
    assert (artifacts.base_commit, artifacts.adapter, artifacts.merged_dtype) == (
        "c",
        "sha256:2",
        "float16",
    )
    assert (data.rows, data.planned_steps) == (10, 4)


@pytest.mark.parametrize("path", [(), ("stages", 0), ("frozen",), ("artifacts",), ("data",)])
def test_unknown_fields_of_a_newer_operator_are_not_dropped(path: tuple[str | int, ...]) -> None:
    """The next write would drop a field that this version ignores."""
    ledger = Ledger().with_start("r", FROZEN, attempt("train"))
    (revision,) = ledger.to_status()
    assert Ledger.parse([revision]) == ledger
    group: Any = revision
    for step in path:
        group = group[step]
    group["novel"] = 1
    with pytest.raises(UnsupportedVersion, match="novel"):
        Ledger.parse([revision])


@pytest.mark.parametrize("version", [0, LEDGER_VERSION - 1, LEDGER_VERSION + 1])
def test_a_ledger_of_another_version_is_not_read(version: int) -> None:
    assert Ledger.parse([], LEDGER_VERSION) == Ledger.parse([]) == Ledger()
    with pytest.raises(UnsupportedVersion, match=f"status.ledgerVersion is {version}"):
        Ledger.parse([], version)


def test_the_first_attempt_freezes_a_revision() -> None:
    ledger = Ledger()
    assert ledger.frozen("r") is None
    ledger = ledger.with_start("r", FROZEN, attempt("prepare"))
    other = FROZEN.model_copy(update={"operator": "[]"})
    assert ledger.with_start("r", other, attempt("train")).frozen("r") == FROZEN


def test_a_build_has_the_digest_of_its_attempts() -> None:
    made = attempt("merge", build="b").model_copy(update={"build_digest": "b" * 64})
    ledger = Ledger().with_start("r", FROZEN, made)
    assert ledger.build_digest("b") == "b" * 64
    assert ledger.build_digest("c") is None


def test_a_ledger_never_changes() -> None:
    ledger = (
        Ledger().with_attempt("r", attempt("train")).with_artifacts("r", PrepareArtifacts(rows=10))
    )
    before = ledger.to_status()
    ledger.with_attempt("r", attempt("train", 2))
    ledger.with_attempt("other", attempt("prepare"))
    ledger.with_artifacts("r", PrepareArtifacts(rows=11))
    ledger.without_reference("r")
    ledger.with_gpu_seconds("r", 5, started=START, until=START + DAY)
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


def spent(ledger: Ledger, seconds: int, *, started: datetime = START) -> Ledger:
    """Return the ledger after a pod that started a day ago, or later, reported GPU-seconds."""
    return ledger.with_gpu_seconds("r", seconds, started=started, until=START + DAY)


def test_gpu_seconds_add_up_over_volumes_and_never_decrease() -> None:
    ledger = spent(Ledger().with_attempt("r", attempt("train")), 100)
    assert spent(ledger, 40).revision("r").gpu_seconds == 100
    lost = ledger.with_lost_volume("r", "VolumeLost")
    assert spent(lost, 40).revision("r").gpu_seconds == 140


def test_gpu_seconds_are_limited_by_the_time_since_the_first_pod_of_the_volume_started() -> None:
    ledger = Ledger().with_attempt("r", attempt("train"))
    late = START + DAY - timedelta(seconds=60)
    assert spent(ledger, 2**53, started=late).revision("r").gpu_seconds == 60
    first = spent(ledger, 100)
    assert spent(first, 2**53, started=late).revision("r").gpu_seconds == 86_400
    assert spent(first, -5).revision("r").gpu_seconds == 100
    another_volume = first.with_lost_volume("r", "VolumeLost")
    assert spent(another_volume, 2**53, started=late).revision("r").gpu_seconds == 160
    assert spent(ledger, 5, started=START + 2 * DAY).revision("r").gpu_seconds == 0
