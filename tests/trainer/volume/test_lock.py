"""A second trainer on the same volume waits for the first one and reports its name."""

import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.errors import Transient
from finetune_trainer.volume import lock
from finetune_trainer.volume_layout import Layout


def test_held_volume_is_refused_with_its_holder(tmp_path: Path) -> None:
    layout = Layout(work=tmp_path / "volume")
    with lock.held(layout, "train"):
        owner = rf"in use by train in {re.escape(socket.gethostname())} \(process {os.getpid()}\)"
        with (
            pytest.raises(Transient, match=rf"{owner} since 2.* did not end within 0 s"),
            lock.held(layout, "merge", wait=0.0),
        ):
            pytest.fail("two hold it")
    with lock.held(layout, "merge", wait=0.0):
        assert json.loads(layout.lock.read_text())["command"] == "merge"
    assert layout.lock.read_text() == ""


def test_name_of_a_killed_trainer_is_not_a_lock(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(work=tmp_path)
    child = os.fork()
    if child == 0:
        with lock.held(layout, "train"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert json.loads(layout.lock.read_text())["pid"] == child
    with lock.held(layout, "train", wait=0.0):
        assert f"(process {child})" in capfd.readouterr().err
        assert json.loads(layout.lock.read_text())["pid"] == os.getpid()


def test_waiting_trainer_continues_when_the_holder_is_killed(make: MakeWorkshop) -> None:
    workshop = make(training={"maxSteps": 12, "advanced": {"saveSteps": 2}})
    workshop.succeed("prepare")
    first = workshop.start("train")
    first.until(lambda: any((workshop.work / "checkpoints").glob("step-*")))
    assert first.process.pid is not None
    os.kill(first.process.pid, signal.SIGSTOP)
    second = workshop.start("train")
    log = workshop.folder / "log"
    second.until(lambda: f"in use by train in {socket.gethostname()}" in log.read_text())
    os.kill(first.process.pid, signal.SIGKILL)
    ended = second.wait()
    assert ended.code == 0, ended.log
    assert "did not exit cleanly; this process now uses the volume" in ended.log
    assert "resuming from the checkpoint of step" in ended.log
