"""Background processes: started once, replaced on change, never confused with other processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import paths
from cluster.errors import NotReady, Unsupported
from cluster.host import processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(paths, "PIDS", tmp_path / "pids")
    monkeypatch.setattr(paths, "LOGS", tmp_path / "logs")
    yield tmp_path
    for name in processes.recorded():
        processes.stop(name)


def pid_of(name: str) -> int:
    record = processes.alive(name)
    assert record is not None
    return record.pid


def test_second_start_keeps_the_process() -> None:
    processes.start("one", SLEEP)
    first = pid_of("one")
    processes.start("one", SLEEP)
    assert pid_of("one") == first


def test_changed_arguments_replace_the_process() -> None:
    processes.start("one", SLEEP)
    first = pid_of("one")
    processes.start("one", [*SLEEP, "more"])
    assert pid_of("one") != first
    assert processes.start_time(first) is None


def test_changed_configuration_replaces_the_process(folders: Path) -> None:
    configuration = folders / "settings"
    configuration.write_text("a")
    processes.start("one", SLEEP, configuration=[configuration])
    first = pid_of("one")
    processes.start("one", SLEEP, configuration=[configuration])
    assert pid_of("one") == first
    configuration.write_text("b")
    processes.start("one", SLEEP, configuration=[configuration])
    assert pid_of("one") != first


def test_killed_process_is_started_again() -> None:
    processes.start("one", SLEEP)
    first = pid_of("one")
    os.kill(first, signal.SIGKILL)
    while processes.start_time(first) is not None:
        pass
    assert processes.alive("one") is None
    processes.start("one", SLEEP)
    assert pid_of("one") != first


def test_process_with_a_reused_pid_is_not_signaled(folders: Path) -> None:
    with subprocess.Popen(SLEEP) as other:
        started = processes.start_time(other.pid)
        assert started is not None
        record = {"pid": other.pid, "started": started - 1, "command": SLEEP}
        (folders / "pids").mkdir()
        (folders / "pids" / "one.json").write_text(json.dumps(record))
        assert processes.alive("one") is None
        processes.stop("one")
        assert processes.recorded() == []
        assert other.poll() is None
        other.kill()


def test_stop_kills_a_process_that_ignores_sigterm() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print(1, flush=True); time.sleep(600)"
    )
    processes.start("stubborn", [sys.executable, "-c", code])
    processes.wait_until(
        "stubborn", lambda: processes.log_file("stubborn").read_text() == "1\n", state="started"
    )
    pid = pid_of("stubborn")
    processes.stop("stubborn", grace=0.2)
    assert processes.start_time(pid) is None


def test_wait_fails_immediately_if_the_process_exits() -> None:
    processes.start("short", [sys.executable, "-c", "import time; time.sleep(0.3)"])
    with pytest.raises(NotReady, match="short exited before it was answering") as failure:
        processes.wait_until("short", lambda: False, state="answering", timeout=30)
    assert failure.value.log == processes.log_file("short")
    assert "make down" in failure.value.hint


def test_wait_times_out_with_log_and_fix() -> None:
    processes.start("one", SLEEP)
    with pytest.raises(NotReady, match=r"one is not answering after 0\.1 s") as failure:
        processes.wait_until("one", lambda: False, state="answering", timeout=0.1)
    assert failure.value.log == processes.log_file("one")
    assert "make down" in failure.value.hint


def test_port_in_use_is_reported_before_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            Unsupported, match=f"one requires 127.0.0.1:{port}, which another program uses"
        ) as refused:
            processes.start("one", SLEEP, ports=[port])
    assert f"ss -ltnp sport = :{port}" in refused.value.hint
    assert processes.recorded() == []
    processes.start("one", SLEEP, ports=[port])
    first = pid_of("one")
    processes.start("one", SLEEP, ports=[port])
    assert pid_of("one") == first
