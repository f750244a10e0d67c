"""Work side by side, and what a failure says: the phase, the log and the way out."""

import errno
import os
import threading
from pathlib import Path

import pytest

from cluster import cli, phases, shell
from cluster.errors import ClusterError, CommandFailed


def test_lanes_bound_how_much_runs_at_a_time_and_keep_the_order() -> None:
    begun: list[int] = []
    running = threading.Semaphore(2)
    both = threading.Barrier(2, timeout=10)

    def work(number: int) -> None:
        assert running.acquire(blocking=False), "three at a time"
        begun.append(number)
        both.wait()
        running.release()

    phases.side_by_side(*(lambda number=number: work(number) for number in range(6)), lanes=2)
    assert sorted(begun) == list(range(6))
    assert set(begun[:2]) == {0, 1}


def test_all_works_end_before_the_first_error_is_raised() -> None:
    ended: list[str] = []

    def fail() -> None:
        raise ClusterError("broken")

    with pytest.raises(ClusterError, match="broken"):
        phases.side_by_side(fail, lambda: ended.append("other"), lanes=1)
    assert ended == ["other"]


def test_a_failure_names_phase_log_and_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "build.log"
    command = ["sh", "-c", "echo No space left on device; exit 3"]
    with pytest.raises(CommandFailed) as failed, phases.phase("build it"):
        shell.logged(command, log, hint="the index must be reachable")
    cli.report(failed.value)
    said = capsys.readouterr().err
    assert "FAILED: build it" in said
    assert "ended with 3" in said
    assert f"log: {log}" in said
    assert "way out: free some disk" in said


def test_a_full_disk_is_no_traceback() -> None:
    with pytest.raises(ClusterError) as failed, phases.phase("write it"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere")
    assert failed.value.phase == "write it"
    assert "free some disk" in failed.value.hint


def test_any_other_error_of_the_system_is_no_traceback_either() -> None:
    with pytest.raises(ClusterError) as failed, phases.phase("write it"):
        raise PermissionError(errno.EACCES, "denied", "/somewhere")
    assert str(failed.value) == "PermissionError: [Errno 13] denied: '/somewhere'"
    assert failed.value.phase == "write it"
    assert "the same command" in failed.value.hint
    assert isinstance(failed.value.__cause__, PermissionError)


def test_a_reader_who_has_gone_is_no_failure_of_the_phase() -> None:
    with pytest.raises(BrokenPipeError), phases.phase("tell it"):
        raise BrokenPipeError


def test_outside_of_a_phase_the_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/gone/mypy")

    assert cli.guarded("check", work) == 1
    said = capsys.readouterr().err
    assert said.startswith("FAILED: check\n  FileNotFoundError: ")
    assert "/gone/mypy" in said
    assert "way out: " in said
    assert "Traceback" not in said


def test_a_command_that_returns_nothing_has_done_its_work() -> None:
    assert cli.guarded("venv", lambda: None) == 0
    assert cli.guarded("check", lambda: 3) == 3
