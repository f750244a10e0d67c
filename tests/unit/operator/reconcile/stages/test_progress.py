"""``status.training``: unknown values are kept, the newest count, GPU time only grows."""

import dataclasses
import math
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing

from finetune_api.contracts.exitcodes import ExitCode
from finetune_operator.types import PodProgress

MEASURED = PodProgress(
    pod="",
    ratio=0.4,
    global_step=40,
    max_steps=100,
    loss=1.23456,
    eval_loss=1.5,
    tokens_per_second=812.34,
    eta_seconds=600.4,
    last_checkpoint_step=30,
    gpu_seconds=1000.6,
)
SHOWN = {
    "attempt": 1,
    "restarts": 0,
    "globalStep": 40,
    "maxSteps": 100,
    "progressPercent": 40,
    "etaSeconds": 600,
    "stepSeconds": "10.0",
    "loss": "1.2346",
    "evalLoss": "1.5000",
    "tokensPerSecond": "812.3",
    "lastCheckpointStep": 30,
    "gpuSeconds": 1001,
}


def training(cluster: Cluster) -> Thing:
    """Reconcile, and return ``status.training``."""
    cluster.settle()
    found: Thing = cluster.status.get("training", {})
    return found


def start_training(cluster: Cluster) -> None:
    """Complete data preparation, and let the train pod run."""
    controllers.run(cluster, "prepare")
    cluster.settle()
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))


def at_training() -> Cluster:
    """Return a cluster in which training runs."""
    cluster = Cluster()
    start_training(cluster)
    cluster.wait(3600)
    return cluster


def at_training_again() -> Cluster:
    """Return a cluster in which another revision trains, after the first one was interrupted."""
    cluster = at_training()
    cluster.settle()
    interrupt(cluster)
    cluster.edit(suspend=False, rerun="a")
    start_training(cluster)
    return cluster


def interrupt(cluster: Cluster) -> None:
    """Suspend the job, and let its train pod end and its Job be deleted."""
    cluster.edit(suspend=True)
    cluster.settle()
    controllers.sync(cluster)
    controllers.stop(cluster, controllers.pod_of_stage(cluster, "train"))
    controllers.sync(cluster)
    controllers.sync(cluster)


def test_training_status_is_empty_before_training() -> None:
    cluster = Cluster()
    cluster.progress = dataclasses.replace(MEASURED, global_step=None)
    assert training(cluster) == {}


def test_metrics_are_in_the_status() -> None:
    cluster = at_training()
    cluster.progress = MEASURED
    assert training(cluster) == SHOWN


def test_the_step_that_a_stopped_trainer_saved_is_in_the_status() -> None:
    cluster = at_training()
    cluster.progress = MEASURED
    training(cluster)
    cluster.edit(suspend=True)
    cluster.settle()
    stopped = controllers.message("train", "stopped", globalStep=47, maxSteps=100)
    pod = controllers.pod_of_stage(cluster, "train")
    controllers.finish(cluster, pod, ExitCode.STOPPED, stopped)
    cluster.progress = None
    shown = training(cluster)
    assert (shown["globalStep"], shown["lastCheckpointStep"]) == (47, 47)


@pytest.mark.parametrize(
    "later", [None, PodProgress(pod=""), PodProgress(pod="", global_step=None, loss=9.0)]
)
def test_previous_progress_is_kept_without_a_measurement(later: PodProgress | None) -> None:
    cluster = at_training()
    cluster.progress = MEASURED
    training(cluster)
    cluster.progress = later
    assert training(cluster) == SHOWN


def test_an_unmeasured_value_is_kept_next_to_measured_ones() -> None:
    cluster = at_training()
    cluster.progress = MEASURED
    training(cluster)
    cluster.progress = PodProgress(pod="", global_step=41, max_steps=100)
    assert training(cluster) == {**SHOWN, "globalStep": 41, "progressPercent": 41}


def test_gpu_seconds_never_go_down() -> None:
    cluster = at_training()
    cluster.progress = MEASURED
    training(cluster)
    cluster.progress = dataclasses.replace(MEASURED, global_step=31, gpu_seconds=5.0)
    assert training(cluster) == {
        **SHOWN,
        "globalStep": 31,
        "progressPercent": 31,
        "stepSeconds": "8.7",
    }


def test_a_trainer_cannot_report_more_gpu_time_than_its_pods_had() -> None:
    cluster = at_training()
    cluster.progress = dataclasses.replace(MEASURED, gpu_seconds=2.0**53)
    assert training(cluster)["gpuSeconds"] == 3600
    cluster.wait(60)
    assert training(cluster)["gpuSeconds"] == 3660
    cluster.progress = None
    pod = controllers.pod_of_stage(cluster, "train")
    controllers.finish(cluster, pod, 0, controllers.message("train", gpuSeconds=2**53))
    controllers.sync(cluster)
    assert training(cluster)["gpuSeconds"] == 3660


def test_the_result_replaces_the_metrics() -> None:
    cluster = at_training()
    cluster.progress = MEASURED
    training(cluster)
    cluster.progress = None
    end: dict[str, Any] = {"globalStep": 100, "maxSteps": 100, "loss": 0.5, "gpuSeconds": 2000.2}
    pod = controllers.pod_of_stage(cluster, "train")
    controllers.finish(cluster, pod, 0, controllers.message("train", **end))
    controllers.sync(cluster)
    assert training(cluster) == {
        **SHOWN,
        "globalStep": 100,
        "progressPercent": 100,
        "etaSeconds": 0,
        "loss": "0.5000",
        "gpuSeconds": 2000,
    }


def test_a_restart_is_counted_and_measured() -> None:
    cluster = at_training()
    cluster.progress = MEASURED
    training(cluster)
    cluster.progress = None
    stopped = controllers.message("train", "stopped", globalStep=44, gpuSeconds=1100.0)
    controllers.finish(cluster, controllers.pod_of_stage(cluster, "train"), 143, stopped)
    controllers.sync(cluster)
    cluster.wait(30)
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    cluster.progress = PodProgress(pod="", global_step=50, max_steps=100, gpu_seconds=1200.0)
    shown = training(cluster)
    assert (shown["globalStep"], shown["gpuSeconds"], shown["failures"]) == (50, 1200, 1)


def test_another_attempt_keeps_the_known_progress() -> None:
    cluster = at_training()
    cluster.progress = MEASURED
    training(cluster)
    cluster.progress = None
    interrupt(cluster)
    cluster.edit(suspend=False)
    paused = {name: value for name, value in SHOWN.items() if name != "etaSeconds"}
    assert training(cluster) == {**paused, "attempt": 2}


def test_progress_of_an_abandoned_revision_is_not_shown_for_the_next() -> None:
    cluster = at_training()
    cluster.progress = PodProgress(pod="", global_step=7, max_steps=100)
    training(cluster)
    cluster.edit(rerun="a")
    assert training(cluster) == {}
    controllers.run(cluster, "prepare")
    assert training(cluster) == {}
    controllers.sync(cluster)
    cluster.edit(rerun=None)
    cluster.progress = None
    back = training(cluster)
    assert back["attempt"] == 1
    assert "globalStep" not in back


def test_measurements_of_another_revisions_pod_are_ignored() -> None:
    cluster = at_training_again()
    cluster.edit(rerun=None)
    cluster.progress = MEASURED
    assert "globalStep" not in training(cluster)


def test_progress_of_the_revision_before_an_edit_back_is_not_shown() -> None:
    cluster = at_training_again()
    cluster.progress = MEASURED
    assert training(cluster)["globalStep"] == 40
    cluster.progress = None
    cluster.edit(rerun=None)
    assert "globalStep" not in training(cluster)


def test_more_steps_than_expected_are_100_percent() -> None:
    cluster = at_training()
    cluster.progress = dataclasses.replace(MEASURED, global_step=101)
    assert training(cluster)["progressPercent"] == 100


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_unknown(value: float) -> None:
    cluster = at_training()
    cluster.progress = MEASURED
    training(cluster)
    cluster.progress = dataclasses.replace(MEASURED, eta_seconds=value, gpu_seconds=value)
    assert training(cluster) == SHOWN
