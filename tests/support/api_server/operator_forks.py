"""Operators that are forked from a process that has already imported the operator.

Imports are most of the processor time of a start, and the tests start dozens of operators.
A forked operator is still a process with its own environment, log and signals. It is a
child of the tests: they are the subreaper of their descendants, and the process that forked the
operator's parent ends at once.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[3]
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36
"""Options of prctl."""
_SERVER = """
from tests.support.api_server import operator_forks
operator_forks.serve()
import sys
from finetune_operator.__main__ import main
sys.exit(main())
"""
"""serve() returns in each operator."""
SHORT_DELAYS = """
from finetune_operator import delays
delays.SLOW_SETTLE = delays.SETTLE
delays.CREATED = delays.FOLLOW_UP
delays.STATEMENT = delays.SETTLE
"""
"""Runs before an operator of a test: tests see the result of an event of a pod within 0.1 s, not
within 5 s, so that they wait less, and ``settled`` knows that no event is pending. The same is true
of the statements of budgets."""

_servers: list[subprocess.Popen[bytes]] = []


class Fork:
    """A forked child process, with the methods of Popen that the tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None if the process is running."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        """Return the exit code when the process has ended. Raises TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("operator", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL unless the process has ended."""
        self.send_signal(signal.SIGKILL)


@contextmanager
def server(packages: Sequence[Path]) -> Iterator[None]:
    """Run the process from which operators are forked; ``packages``: folders of their packages."""
    _prctl(SET_CHILD_SUBREAPER, 1)
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*packages, ROOT)))}
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as running:
        _servers.append(running)
        try:
            yield
        finally:
            _servers.remove(running)


def available() -> bool:
    """Report whether the server runs."""
    return bool(_servers)


def fork(environment: Mapping[str, str], log: Path) -> Fork:
    """Start an operator with exactly this environment."""
    (running,) = _servers
    assert running.stdin is not None
    assert running.stdout is not None
    request = {"environment": dict(environment), "log": str(log)}
    running.stdin.write(json.dumps(request).encode() + b"\n")
    running.stdin.flush()
    return Fork(int(running.stdout.readline()))


def serve() -> None:
    """Fork an operator for each request. Returns only in an operator."""
    import finetune_operator.app  # noqa: F401

    exec(SHORT_DELAYS)
    tests = os.getppid()
    for line in sys.stdin.buffer:
        parent = os.fork()
        if parent == 0:
            if os.fork():
                os._exit(0)
            _become_operator(tests, **json.loads(line))
            return
        os.waitpid(parent, 0)
    os._exit(0)


def _become_operator(tests: int, *, environment: dict[str, str], log: str) -> None:
    """Wait until this process is a child of the tests, and report its id to them."""
    while os.getppid() != tests:
        time.sleep(0.001)
    _prctl(SET_PDEATHSIG, signal.SIGKILL)
    os.write(1, f"{os.getpid()}\n".encode())
    for descriptor, file, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(file, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    os.environ.clear()
    os.environ.update(environment)


def _prctl(option: int, value: int) -> None:
    """Set an attribute of this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
