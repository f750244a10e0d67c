"""Columns of ``kubectl get``: progress of each stage, remaining time, short message, width."""

import dataclasses
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster

from finetune_api.crd.definition import custom_resource_definition
from finetune_api.crd.resources import FINETUNEJOB
from finetune_operator.reconcile.reporting.columns import SUMMARY_LENGTH, remaining, summary
from finetune_operator.types import PodProgress

TRAINING = PodProgress(pod="", global_step=57, max_steps=100, eta_seconds=250.0)
LONGEST = {
    "Name": "llama3-support-agent",
    "Ready": "False",
    "State": "VerificationFailed",
    "Serving": "a1b2c3d4 (old)",
    "Progress": "prepare 100%",
    "ETA": "23h59m",
    "Loss": "12.3456",
    "Age": "364d",
    "Warnings": "32",
    "Cost": "12.50 EUR (9.75-42.00)",
}
"""The longest plausible value of each column."""
GAP, TERMINAL, WIDE_TERMINAL = 3, 120, 144


def shown(cluster: Cluster) -> tuple[str | None, str | None]:
    """Reconcile, and return progress and remaining time."""
    cluster.settle()
    return cluster.status.get("progress"), cluster.status.get("eta")


def at(stage: str) -> Cluster:
    """Return a cluster in which the pod of a stage runs."""
    cluster = Cluster()
    for done in ("prepare", "train", "merge"):
        if done == stage:
            break
        controllers.run(cluster, done)
    cluster.settle()
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, stage))
    return cluster


@pytest.mark.parametrize(
    ("stage", "progress", "expected"),
    [
        ("prepare", None, ("prepare", None)),
        (
            "prepare",
            PodProgress(pod="", downloaded_bytes=42, total_bytes=100, eta_seconds=61.0),
            ("prepare 42%", "1m01s"),
        ),
        ("train", None, ("train", None)),
        ("train", TRAINING, ("train 57%", "4m10s")),
        ("train", dataclasses.replace(TRAINING, phase="saving"), ("save", None)),
        ("train", dataclasses.replace(TRAINING, phase="reference"), ("reference", None)),
        ("train", dataclasses.replace(TRAINING, phase="<other>"), ("train 57%", "4m10s")),
        ("merge", None, ("merge", None)),
        ("merge", PodProgress(pod="", ratio=0.801, eta_seconds=9.0), ("merge 80%", "9s")),
    ],
)
def test_progress_of_each_stage(
    stage: str, progress: PodProgress | None, expected: tuple[str, str | None]
) -> None:
    cluster = at(stage)
    cluster.progress = progress
    assert shown(cluster) == expected


@pytest.mark.parametrize(
    ("loaded", "expected"), [(None, "load"), (0.0, "load 0%"), (0.3, "load 30%"), (1.0, "verify")]
)
def test_progress_of_loading(loaded: float | None, expected: str) -> None:
    cluster = at("serve")
    cluster.loaded = loaded
    assert shown(cluster) == (expected, None)


def test_progress_is_kept_without_a_measurement() -> None:
    cluster = at("train")
    cluster.progress = TRAINING
    shown(cluster)
    cluster.progress = None
    assert shown(cluster) == ("train 57%", "4m10s")


def test_a_stage_does_not_keep_the_progress_of_the_stage_before_it() -> None:
    cluster = at("train")
    cluster.progress = dataclasses.replace(TRAINING, phase="reference")
    assert shown(cluster) == ("reference", None)
    cluster.progress = None
    controllers.run(cluster, "train")
    assert shown(cluster) == ("merge", None)


def test_a_paused_job_has_progress_and_no_remaining_time() -> None:
    cluster = at("train")
    cluster.progress = TRAINING
    shown(cluster)
    cluster.progress = None
    cluster.edit(suspend=True)
    assert shown(cluster) == ("train 57%", None)
    assert "etaSeconds" not in cluster.status["training"]


def test_a_job_that_is_ready_has_neither() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    assert shown(cluster) == (None, None)
    assert cluster.status["summary"].startswith("Serving at http://demo-serve.")


def test_a_new_revision_does_not_keep_the_progress_of_the_old_one() -> None:
    cluster = at("train")
    cluster.progress = TRAINING
    shown(cluster)
    cluster.progress = None
    cluster.edit(rerun="again", suspend=True)
    assert shown(cluster) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, None),
        (0.9, None),
        (float("inf"), None),
        (1.0, "1s"),
        (250.0, "4m10s"),
        (1e12, "99d23h"),
    ],
)
def test_remaining_time_is_short_or_absent(seconds: float | None, text: str | None) -> None:
    assert remaining(seconds) == text


@pytest.mark.parametrize(
    ("message", "short"),
    [
        ("Training the adapter.", "Training the adapter"),
        ("No node has a GPU. Add one. Scheduler: 0/1 nodes.",) * 2,
        ("word " * 60, "word " * 46 + "word…"),
        ("x" * 300, "x" * (SUMMARY_LENGTH - 1) + "…"),
    ],
)
def test_short_message_is_the_beginning_of_the_message(message: str, short: str) -> None:
    short = short.rstrip(".")
    assert summary(message) == short
    assert len(short) <= SUMMARY_LENGTH


def test_the_columns_before_the_message_fit_the_terminal() -> None:
    """All columns but the last one are padded to their longest value."""
    (version,) = custom_resource_definition(FINETUNEJOB)["spec"]["versions"]
    columns: list[dict[str, Any]] = version["additionalPrinterColumns"]
    *names, last = ["Name", *(column["name"] for column in columns)]
    assert last == "Message"
    assert set(names) == set(LONGEST), "each column has a longest plausible value here"
    always = ["Name", *(column["name"] for column in columns if not column["priority"])]
    for shown_, terminal in ((always, TERMINAL), (names, WIDE_TERMINAL)):
        widths = [max(len(name), len(LONGEST[name])) for name in shown_]
        assert sum(widths) + GAP * (len(widths) - 1) <= terminal


def test_each_warning_is_an_event_once_and_is_counted() -> None:
    cluster = at("prepare")
    warnings = ["3 rows were dropped", "few steps"]
    controllers.run(cluster, "prepare", text=controllers.message("prepare", warnings=warnings))
    planned = cluster.plan()
    raised = [each.message for each in planned.events if each.reason == "WarningRaised"]
    assert (raised, planned.status["warningCount"]) == (warnings, 2)
    cluster.settle()
    assert [each for each in cluster.plan().events if each.reason == "WarningRaised"] == []
