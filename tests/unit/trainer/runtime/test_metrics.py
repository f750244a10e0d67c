"""The metrics of a stage: names and values as they are scraped, and the time that is left."""

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from finetune_trainer.runtime import gpu_usage, progress
from finetune_trainer.runtime.gpu_usage import KILLED, GpuUsage
from finetune_trainer.runtime.progress import Progress


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


def test_what_is_not_known_is_not_exported() -> None:
    assert scraped(Progress("train")).count("\nfinetune_") == 1


def test_it_says_which_pod_it_is_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "uid" not in scraped(everything())
    monkeypatch.setenv(progress.POD_UID_VARIABLE, "uid-1")
    assert '\nfinetune_pod_info{uid="uid-1"} 1.0\n' in scraped(everything())


def test_every_figure_is_exported() -> None:
    text = scraped(everything())
    for name in progress.HELP:
        suffix = "_total" if name in progress.COUNTERS else ""
        assert f"\nfinetune_{name}{suffix} " in text
    assert 'finetune_retries_total{cause="killed"} 2.0' in text
    assert 'finetune_retries_total{cause="out_of_memory"} 1.0' in text


def test_promtool_has_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress.POD_UID_VARIABLE, "uid-1")
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


def test_the_age_of_a_checkpoint_grows(clock: Clock) -> None:
    found = Progress("train")
    found.checkpoint_published(3)
    clock.now += 42
    assert "finetune_checkpoint_age_seconds 42.0" in scraped(found)
    found.checkpoint_published(4)
    assert "finetune_checkpoint_age_seconds 0.0" in scraped(found)
    assert "finetune_last_checkpoint_step 4.0" in scraped(found)


def test_the_time_left_after_a_resume_is_that_of_this_attempts_pace(clock: Clock) -> None:
    found = Progress("train")
    clock.now += 100
    found.start_from(0.5)
    clock.now += 10
    found.ratio(0.6)
    # A tenth of the run took 10 s, so the four tenths that are left take 40 s.
    assert found.get("eta_seconds") == pytest.approx(40)


def test_how_an_attempt_ended_is_the_next_ones_cause(tmp_path: Path) -> None:
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


def test_what_a_process_did_before_it_trained_is_not_counted(tmp_path: Path) -> None:
    age = gpu_usage.process_age()
    assert GpuUsage(tmp_path / "usage.json").gpu_seconds >= age
    assert GpuUsage(tmp_path / "usage.json", held_since=age).gpu_seconds < 1


@pytest.mark.parametrize("content", ["", "[]", '{"gpuSeconds": "x", "retries": 3}'])
def test_a_broken_record_begins_at_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "usage.json"
    path.write_text(content)
    assert gpu_usage.recorded(path) == 0
    assert GpuUsage(path).retries == {}
