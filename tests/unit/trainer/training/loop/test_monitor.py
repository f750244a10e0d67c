"""The remaining time and the speed of a training, from the steps that the monitor has observed."""

from pathlib import Path

import pytest

from finetune_trainer.reporting.loss_history import LossHistory
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.training.gpu_usage import GpuUsage
from finetune_trainer.training.loop.early_stopping import EvaluationHistory
from finetune_trainer.training.loop.monitor import Cadence, Monitor


def monitored(folder: Path, history: LossHistory | None = None) -> tuple[Monitor, Progress]:
    progress = Progress("train")
    monitor = Monitor(
        cadence=Cadence(max_steps=100, eval_steps=None, save_steps=100),
        progress=progress,
        usage=GpuUsage(folder / "usage.json"),
        evaluations=EvaluationHistory(patience=None),
        stop=StopRequest(),
        budget=None,
        learning_rate=1.0,
        scales_loss=False,
        history=history or LossHistory(),
        memory_peak=lambda: None,
    )
    return monitor, progress


@pytest.mark.parametrize("resumed_at", [0, 20])
def test_remaining_time_does_not_include_the_slow_first_step_of_an_attempt(
    resumed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monitor, progress = monitored(tmp_path)
    monitor.on_train_begin(resumed_at)
    now[0] += 60
    monitor.on_step_end(resumed_at + 1)
    assert progress.get("eta_seconds") is None
    assert progress.get("progress_ratio") == (resumed_at + 1) / 100
    now[0] += 2
    monitor.on_step_end(resumed_at + 2)
    assert progress.get("eta_seconds") == pytest.approx(2 * (98 - resumed_at))


def test_speed_is_that_since_the_previous_log_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    history = LossHistory()
    monitor, progress = monitored(tmp_path, history)
    monitor.on_train_begin(0)
    speeds = []
    for step, (seconds, tokens) in enumerate([(60, 900), (2, 1000), (4, 1000)], start=1):
        now[0] += seconds
        monitor.on_log(step, loss=1.0, grad_norm=1.0, rate=1e-4, epoch=0.1, tokens=tokens)
        speeds.append(progress.get("tokens_per_second"))
    assert speeds == [None, 500, 250], "the first step of a process compiles kernels"
    assert history["tokensPerSecond"] == [(2, 500), (3, 250)]
