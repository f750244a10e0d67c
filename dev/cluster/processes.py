"""Background processes that outlive this program.

Each one is recorded as ``<pids>/<name>.json`` with its pid **and its start time** (field 22 of
``/proc/<pid>/stat``): a pid alone may belong to somebody else after a reboot or a wrap-around.
A process is ours, and is signalled, only if both agree.
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
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster import files, paths
from cluster.errors import NotReady, Unsupported

POLL_SECONDS = 0.1
AFRESH = "the end of the log tells why; `make down`, then the same command again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A process by identity, with a digest of how it was started."""

    pid: int
    started: int
    command: list[str]
    configuration: str = ""


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which the process started; None if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name may hold spaces and brackets; the fields count from after its last one.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _file(name: str) -> Path:
    return paths.PIDS / f"{name}.json"


def log_file(name: str) -> Path:
    """The log of the process of that name."""
    return paths.LOGS / f"{name}.log"


def recorded() -> list[str]:
    """Names of all recorded processes, alive or not."""
    return sorted(file.stem for file in paths.PIDS.glob("*.json"))


def alive(name: str) -> Record | None:
    """The record of a process that still runs."""
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
    """Start in a session of its own, unless the very same command runs under that name.

    One that runs with other arguments, or with other content of its ``configuration`` files, is
    replaced. ``ports`` are those of the loopback address that it needs: another program that has
    one of them would be taken for ours. Raises Unsupported then.
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
        raise NotReady(f"{name} ended at once", log=log_file(name), hint=AFRESH)
    record = Record(pid=process.pid, started=started, command=list(command), configuration=digest)
    files.write(_file(name), json.dumps(dataclasses.asdict(record)))
    # The child is meant to outlive us: nobody waits for it.
    process.returncode = 0


def _require_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        # Connections that have just ended do not hold a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Unsupported(
                f"{name} needs 127.0.0.1:{port}, where another program listens: {error}",
                hint=f"`ss -ltnp sport = :{port}` names it; end it, then the same command again "
                "(`make down` ends what is left of an earlier cluster)",
            ) from error


def end(pid: int, started: int, *, grace: float = 10.0) -> None:
    """SIGTERM, then SIGKILL after ``grace`` seconds, to exactly that process."""
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
    """End the recorded process if it is still that process, and forget it."""
    record = alive(name)
    if record is not None:
        end(record.pid, record.started, grace=grace)
    _file(name).unlink(missing_ok=True)


def wait_until(name: str, ready: Callable[[], bool], *, what: str, timeout: float = 60.0) -> None:
    """Wait for ``ready``; fail at once if the process ends before."""
    deadline = time.monotonic() + timeout
    while not ready():
        if alive(name) is None:
            ended = f"{name} ended while {what} was waited for"
            raise NotReady(ended, log=log_file(name), hint=AFRESH)
        if time.monotonic() > deadline:
            late = f"{name}: no {what} after {timeout:g} s"
            raise NotReady(late, log=log_file(name), hint=AFRESH)
        time.sleep(POLL_SECONDS)
