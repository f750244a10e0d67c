"""Background processes that outlive this program.

Each process is recorded in ``<pids>/<name>.json`` with its PID and its start time (field 22 of
``/proc/<pid>/stat``), because a PID is reused after a reboot or a wrap-around. Only a process with
the recorded PID and start time is signaled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from cluster import paths
from cluster.errors import NotReady, Unsupported
from cluster.host import files

POLL_SECONDS = 0.1
RECREATE = "find the cause at the end of the log; to recreate the cluster, run `make down` first"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Identity of a process, its command, and the digest of its configuration files."""

    pid: int
    started: int
    command: list[str]
    configuration: str = ""


def start_time(pid: int) -> int | None:
    """Return the start time in clock ticks after boot; None if the process has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name can contain spaces and parentheses; the other fields follow the last one.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _file(name: str) -> Path:
    return paths.PIDS / f"{name}.json"


def log_file(name: str) -> Path:
    """Return the log file of a process."""
    return paths.LOGS / f"{name}.log"


def recorded() -> list[str]:
    """Return the names of all recorded processes, running or not."""
    return sorted(file.stem for file in paths.PIDS.glob("*.json"))


def forget_all(*, keep: Collection[str]) -> None:
    """Delete the records of all processes except for ``keep``."""
    for name in recorded():
        if name not in keep:
            _file(name).unlink(missing_ok=True)
    if paths.PIDS.is_dir() and not any(paths.PIDS.iterdir()):
        paths.PIDS.rmdir()


def alive(name: str) -> Record | None:
    """Return the record of a process; None if it is not running."""
    try:
        record = Record(**json.loads(_file(name).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return record if start_time(record.pid) == record.started else None


def start(
    name: str,
    command: Sequence[str],
    *,
    configuration: Sequence[Path] = (),
    ports: Sequence[int] = (),
) -> None:
    """Start a process in its own session, unless the same command is already running.

    A running process is replaced if its arguments or the content of its ``configuration`` files
    differ. ``ports`` are the required ports of the loopback address: the health probe would accept
    another program on such a port. Raises Unsupported if a port is in use.
    """
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in configuration)).hexdigest()
    present = alive(name)
    if present is not None:
        if (present.command, present.configuration) == (list(command), digest):
            return
        stop(name)
    for port in ports:
        _require_free(name, port)
    for folder in (paths.PIDS, paths.LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    with log_file(name).open("ab") as log:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )
    started = start_time(process.pid)
    if started is None:
        raise NotReady(f"{name} exited immediately", log=log_file(name), hint=RECREATE)
    record = Record(pid=process.pid, started=started, command=list(command), configuration=digest)
    files.write(_file(name), json.dumps(dataclasses.asdict(record)))
    # Suppress the ResourceWarning of Popen: the child outlives this program.
    process.returncode = 0


def _require_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        # Without this option, recently closed connections would block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Unsupported(
                f"{name} requires 127.0.0.1:{port}, which another program uses: {error}",
                hint=f"find the program with `ss -ltnp sport = :{port}` and stop it, or remove an "
                "earlier cluster with `make down`; then run the same command again",
            ) from error


def end(pid: int, started: int, *, grace: float = 10.0) -> None:
    """Send SIGTERM, and SIGKILL after ``grace`` seconds, to exactly this process."""
    for number, limit in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        if start_time(pid) != started:
            return
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + limit
        while start_time(pid) == started and time.monotonic() < deadline:
            time.sleep(0.02)


def stop(name: str, *, grace: float = 10.0) -> None:
    """Terminate the recorded process, if it is running, and delete the record."""
    record = alive(name)
    if record is not None:
        end(record.pid, record.started, grace=grace)
    _file(name).unlink(missing_ok=True)


def wait_until(name: str, ready: Callable[[], bool], *, state: str, timeout: float = 60.0) -> None:
    """Wait until ``ready``. Raises NotReady on a timeout, or immediately if the process exits.

    ``state`` completes the sentence "the process is not …".
    """
    deadline = time.monotonic() + timeout
    while not ready():
        if alive(name) is None:
            exited = f"{name} exited before it was {state}"
            raise NotReady(exited, log=log_file(name), hint=RECREATE)
        if time.monotonic() > deadline:
            late = f"{name} is not {state} after {timeout:g} s"
            raise NotReady(late, log=log_file(name), hint=RECREATE)
        time.sleep(POLL_SECONDS)
