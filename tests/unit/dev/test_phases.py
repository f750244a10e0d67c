"""Parallel work, and the report of a failure: phase, log and fix."""

import errno
import os
import threading
from pathlib import Path

import pytest

from cluster import cli, phases, shell
from cluster.errors import ClusterError, CommandFailed


def test_lanes_limit_parallel_works_and_keep_their_order() -> None:
    begun: list[int] = []
    running = threading.Semaphore(2)
    both = threading.Barrier(2, timeout=10)

    def work(number: int) -> None:
        assert running.acquire(blocking=False), "more than two works at a time"
        begun.append(number)
        both.wait()
        running.release()

    phases.side_by_side(*(lambda number=number: work(number) for number in range(6)), lanes=2)
    assert sorted(begun) == list(range(6))
    assert set(begun[:2]) == {0, 1}


def test_first_error_is_raised_after_all_works_have_ended() -> None:
    ended: list[str] = []

    def fail() -> None:
        raise ClusterError("broken")

    with pytest.raises(ClusterError, match="broken"):
        phases.side_by_side(fail, lambda: ended.append("other"), lanes=1)
    assert ended == ["other"]


def test_report_of_a_failure_has_phase_log_and_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "build.log"
    command = ["sh", "-c", "echo No space left on device; exit 3"]
    with pytest.raises(CommandFailed) as error, phases.phase("build it"):
        shell.logged(command, log, hint="the index must be reachable")
    cli.report(error.value)
    output = capsys.readouterr().err
    assert "FAILED: build it" in output
    assert "failed with exit code 3" in output
    assert f"log: {log}" in output
    assert "fix: free disk space" in output


def test_only_phases_without_inner_ones_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the longest phases would count the same time twice."""
    monkeypatch.setattr(phases, "finished", [])
    with phases.phase("build"):
        phases.side_by_side(*(lambda n=n: one(n) for n in range(2)), lanes=1)
    with phases.phase("run"):
        phases.record("job: Training", 1.0)
    with phases.phase("check"):
        pass
    names = [name for name, _ in phases.finished]
    assert names == ["image 0", "image 1", "job: Training", "check"]


def one(number: int) -> None:
    with phases.phase(f"image {number}"):
        pass


def test_full_disk_becomes_a_cluster_error_with_a_fix() -> None:
    with pytest.raises(ClusterError) as error, phases.phase("write it"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere")
    assert error.value.phase == "write it"
    assert "free disk space" in error.value.hint


def test_other_system_errors_become_cluster_errors() -> None:
    with pytest.raises(ClusterError) as error, phases.phase("write it"):
        raise PermissionError(errno.EACCES, "denied", "/somewhere")
    assert str(error.value) == "PermissionError: [Errno 13] denied: '/somewhere'"
    assert error.value.phase == "write it"
    assert "the same command" in error.value.hint
    assert isinstance(error.value.__cause__, PermissionError)


def test_broken_pipe_does_not_fail_the_phase() -> None:
    with pytest.raises(BrokenPipeError), phases.phase("print it"):
        raise BrokenPipeError


def test_system_error_outside_a_phase_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/gone/mypy")

    assert cli.guarded("check", work) == 1
    output = capsys.readouterr().err
    assert output.startswith("FAILED: check\n  FileNotFoundError: ")
    assert "/gone/mypy" in output
    assert "fix: " in output
    assert "Traceback" not in output


def test_command_without_return_value_succeeds() -> None:
    assert cli.guarded("venv", lambda: None) == 0
    assert cli.guarded("check", lambda: 3) == 3
