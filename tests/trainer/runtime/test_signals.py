"""A stop signal is delayed only if there is progress to save."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.trainer.faults import HeldWhileLoading, KilledAfterCheckpoint
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.errors import Stopped
from finetune_trainer.reporting.loss_history import LossHistory
from finetune_trainer.runtime import signals
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.training.gpu_usage import GpuUsage
from finetune_trainer.training.loop.early_stopping import EvaluationHistory
from finetune_trainer.training.loop.monitor import Cadence, Monitor


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    request.install()
    yield request
    request.ignore()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def monitor(stop: StopRequest, tmp_path: Path) -> Monitor:
    return Monitor(
        cadence=Cadence(max_steps=9, eval_steps=None, save_steps=9),
        progress=Progress("train"),
        usage=GpuUsage(tmp_path / "usage.json"),
        evaluations=EvaluationHistory(patience=None),
        stop=stop,
        budget=None,
        learning_rate=1.0,
        scales_loss=False,
        history=LossHistory(),
        memory_peak=lambda: None,
    )


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_stop_while_loading_is_immediate(monitor: Monitor) -> None:
    # The monitor exists before the model is loaded; ``begin`` marks the start of the steps.
    with pytest.raises(Stopped):
        terminate()


def test_stop_while_training_waits_for_the_end_of_the_step(
    monitor: Monitor, stop: StopRequest
) -> None:
    monitor.on_train_begin(0)
    terminate()
    assert monitor.on_step_end(1).stop
    stop.end_deferral()
    assert stop.requested


def test_training_does_not_start_after_a_stop(monitor: Monitor) -> None:
    with pytest.raises(Stopped):
        terminate()
    with pytest.raises(Stopped):
        monitor.on_train_begin(0)


def test_stop_after_training_is_immediate(monitor: Monitor, stop: StopRequest) -> None:
    monitor.on_train_begin(0)
    stop.end_deferral()
    with pytest.raises(Stopped):
        terminate()


def test_swallowed_stop_forces_the_exit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "FORCED_EXIT_SECONDS", 0.1)
    said = tmp_path / "said"
    child = os.fork()
    if child == 0:
        StopRequest(lambda: said.touch()).install()
        with suppress(BaseException):
            terminate()
            time.sleep(1)
        time.sleep(60)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert said.exists()


def test_stop_does_not_interrupt_writing_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "FORCED_EXIT_SECONDS", 0.1)
    child = os.fork()
    if child == 0:
        request = StopRequest()
        request.install()
        with suppress(Stopped):
            terminate()
            time.sleep(1)
        request.ignore()
        time.sleep(1)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(("backend", "swallows"), [("trl", False), ("unsloth", True)])
def test_stop_while_a_real_model_loads_is_immediate_and_loses_nothing(
    make: MakeWorkshop, backend: str, swallows: bool
) -> None:
    workshop = make(training={"advanced": {"backend": backend, "saveSteps": 2}})
    workshop.succeed("prepare")
    workshop.with_fault(KilledAfterCheckpoint(step=4)).run("train")
    loads = workshop.folder / "loads"
    running = workshop.with_fault(HeldWhileLoading(marker=loads, swallows=swallows)).start("train")
    running.until(loads.exists)
    assert running.process.pid is not None
    before = time.monotonic()
    os.kill(running.process.pid, signal.SIGTERM)
    ended = running.wait()
    assert time.monotonic() - before < 20
    assert (ended.code, ended.result["reason"]) == (143, "Stopped")
    assert ended.message == "stopped by SIGTERM; there was nothing to save"
    again = workshop.succeed("train")
    assert "resuming from the checkpoint of step 4" in again.log
    causes = {"killed": 2} if swallows else {"killed": 1, "stopped": 1}
    assert json.loads((workshop.work / "usage.json").read_text())["retries"] == causes
