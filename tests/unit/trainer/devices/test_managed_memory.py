"""The probe of managed memory, with children and drivers that behave like those of a GPU."""

import ctypes
import subprocess
import sys
from collections.abc import Callable

import pytest

from finetune_trainer.devices import managed_memory

NOT_SUPPORTED = 801


def child(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_child_that_succeeds_reports_no_problem() -> None:
    assert managed_memory.problem(child("print('noise')")) is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(1)", "a process that tries it ended with code 1"),
        ("import os; os.kill(os.getpid(), 11)", "a process that tries it ended with code -11"),
        ("print('error 801'); raise SystemExit(1)", "error 801"),
    ],
    ids=["silent", "crash", "message"],
)
def test_a_child_that_fails_is_a_problem(code: str, said: str) -> None:
    assert managed_memory.problem(child(code)) == said


def test_a_child_that_hangs_is_ended() -> None:
    found = managed_memory.problem(child("import time; time.sleep(600)"), timeout=0.5)
    assert found == "a process that tries it did not end within 0.5 seconds"


def test_the_child_of_a_machine_without_a_gpu_succeeds_without_torch() -> None:
    command = [sys.executable, "-X", "importtime", *managed_memory.CHILD[1:]]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "ctypes" in ended.stderr
    assert "torch" not in ended.stderr


class Driver:
    """A driver of CUDA in which some calls fail. ``calls``: their names, in order."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*_: object) -> int:
            self.calls.append(name)
            return self.codes.get(name, 0)

        return call


def driver(monkeypatch: pytest.MonkeyPatch, **codes: int) -> Driver:
    made = Driver(**codes)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: made)
    return made


def test_memory_is_allocated_and_written_by_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    made = driver(monkeypatch)
    managed_memory.main()
    assert made.calls[-3:] == ["cuMemAllocManaged", "cuMemsetD8_v2", "cuCtxSynchronize"]


@pytest.mark.parametrize("name", ["cuMemAllocManaged", "cuMemsetD8_v2", "cuCtxSynchronize"])
def test_a_failed_call_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    made = driver(monkeypatch, **{name: NOT_SUPPORTED})
    with pytest.raises(SystemExit) as ended:
        managed_memory.main()
    assert ended.value.code == 1
    assert made.calls[-1] == name
    assert capsys.readouterr().out == f"{name} of the CUDA driver returns error 801\n"


@pytest.mark.parametrize("name", ["cuInit", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"])
def test_a_gpu_that_the_child_cannot_use_is_no_evidence(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made = driver(monkeypatch, **{name: 46})
    managed_memory.main()
    assert made.calls[-1] == name
