"""Metrics and loss history of a stage as scraped, the ETA, and GPU usage over attempts."""

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.support.ports import free_port

from finetune_api.contracts.ports import POD_UID_VARIABLE
from finetune_trainer.runtime import progress
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.training import gpu_usage
from finetune_trainer.training.gpu_usage import KILLED, GpuUsage


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("finetune_trainer.runtime.progress.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def scraped(found: Progress) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(found)
    return generate_latest(registry).decode()


def everything() -> Progress:
    found = Progress("train")
    found.set(**dict.fromkeys(progress.HELP, 0.5))
    found.checkpoint_published(3)
    found.retried({"killed": 2, "out_of_memory": 1})
    return found


def test_unknown_values_are_not_exported() -> None:
    assert scraped(Progress("train")).count("\nfinetune_") == 1


def test_pod_uid_is_exported_if_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "uid" not in scraped(everything())
    monkeypatch.setenv(POD_UID_VARIABLE, "uid-1")
    assert '\nfinetune_pod_info{uid="uid-1"} 1.0\n' in scraped(everything())


def test_the_card_is_exported_for_a_gpu_only() -> None:
    found = everything()
    found.runs_on(None)
    assert "device_info" not in scraped(found)
    found.runs_on("NVIDIA-A10G")
    assert '\nfinetune_device_info{card="NVIDIA-A10G"} 1.0\n' in scraped(found)


def test_every_value_is_exported() -> None:
    text = scraped(everything())
    for name in progress.HELP:
        suffix = "_total" if name in progress.COUNTERS else ""
        assert f"\nfinetune_{name}{suffix} " in text
    assert 'finetune_retries_total{cause="killed"} 2.0' in text
    assert 'finetune_retries_total{cause="out_of_memory"} 1.0' in text


def test_the_loss_history_is_served_at_a_path_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    monkeypatch.setenv(progress.PORT_VARIABLE, str(port))
    found = everything()
    found.serve()

    def read(path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    assert json.loads(read("/loss-history")) == {}
    found.history = {"loss": [(1, 2.0)], "gradNorm": [(1, 1.0)]}
    assert json.loads(read("/loss-history")) == {"loss": [[1, 2.0]]}
    found.history = {"loss": [(step, 1.0) for step in range(1000)]}
    assert len(json.loads(read("/loss-history"))["loss"]) == 200
    assert b"finetune_train_loss 0.5" in read("/metrics")


def test_promtool_accepts_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POD_UID_VARIABLE, "uid-1")
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=scraped(everything()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_checkpoint_age_grows(clock: Clock) -> None:
    found = Progress("train")
    found.checkpoint_published(3)
    clock.now += 42
    assert "finetune_checkpoint_age_seconds 42.0" in scraped(found)
    found.checkpoint_published(4)
    assert "finetune_checkpoint_age_seconds 0.0" in scraped(found)
    assert "finetune_last_checkpoint_step 4.0" in scraped(found)


def test_eta_after_a_resume_uses_the_pace_of_this_attempt(clock: Clock) -> None:
    found = Progress("train")
    clock.now += 100
    found.start_from(0.5)
    clock.now += 10
    found.ratio(0.6)
    # A tenth of the run took 10 s, so the remaining four tenths take 40 s.
    assert found.get("eta_seconds") == pytest.approx(40)


def test_end_of_an_attempt_is_the_cause_of_the_next(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    first = GpuUsage(path)
    first.record()
    assert first.retries == {}
    second = GpuUsage(path)
    assert second.retries == {KILLED: 1}
    second.ended("stopped")
    third = GpuUsage(path)
    assert third.retries == {KILLED: 1, "stopped": 1}
    third.retry("out_of_memory")
    third.ended(None)
    assert GpuUsage(path).retries == {KILLED: 1, "stopped": 1, "out_of_memory": 1}
    assert gpu_usage.recorded(path) > 0


def test_time_before_the_gpu_was_held_is_not_counted(tmp_path: Path) -> None:
    age = gpu_usage.process_age()
    assert GpuUsage(tmp_path / "usage.json").gpu_seconds >= age
    assert GpuUsage(tmp_path / "usage.json", held_since=age).gpu_seconds < 1


@pytest.mark.parametrize("content", ["", "[]", '{"gpuSeconds": "x", "retries": 3}'])
def test_damaged_usage_file_starts_at_zero(tmp_path: Path, content: str) -> None:
    path = tmp_path / "usage.json"
    path.write_text(content)
    assert gpu_usage.recorded(path) == 0
    assert GpuUsage(path).retries == {}


def test_the_phase_is_absent_before_the_last_step_and_follows_the_latest() -> None:
    progress = Progress("train")
    assert "finetune_phase_info" not in {family.name for family in progress.collect()}
    for phase in ("saving", "reference"):
        progress.enter(phase)
        (found,) = (each for each in progress.collect() if each.name == "finetune_phase_info")
        assert [sample.labels for sample in found.samples] == [{"phase": phase}]
