"""A stop waits only while there is something to save."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_trainer.curves import Curves
from finetune_trainer.errors import Stopped
from finetune_trainer.evaluations import Evaluations
from finetune_trainer.guards import Cadence, Monitor
from finetune_trainer.progress import Progress
from finetune_trainer.signals import StopRequest
from finetune_trainer.usage import Usage


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    request.install()
    yield request
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def monitor(stop: StopRequest, tmp_path: Path) -> Monitor:
    return Monitor(
        cadence=Cadence(max_steps=9, eval_steps=None, save_steps=9),
        progress=Progress("train"),
        usage=Usage(tmp_path / "usage.json"),
        evaluations=Evaluations(patience=None),
        stop=stop,
        budget=None,
        learning_rate=1.0,
        scales_loss=False,
        curves=Curves(),
        memory_peak=lambda: None,
    )


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_while_the_model_loads_it_is_heeded_at_once(monitor: Monitor) -> None:
    # The monitor is there before the model is loaded; only ``begin`` says that steps follow.
    with pytest.raises(Stopped):
        terminate()


def test_from_the_first_step_on_it_waits_for_a_steps_end(
    monitor: Monitor, stop: StopRequest
) -> None:
    monitor.begin(0)
    terminate()
    assert monitor.step_end(1).stop
    stop.heed()
    assert stop.requested


def test_a_training_does_not_begin_after_it(monitor: Monitor) -> None:
    with pytest.raises(Stopped):
        terminate()
    with pytest.raises(Stopped):
        monitor.begin(0)


def test_it_is_heeded_again_when_training_is_over(monitor: Monitor, stop: StopRequest) -> None:
    monitor.begin(0)
    stop.heed()
    with pytest.raises(Stopped):
        terminate()
