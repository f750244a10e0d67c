"""Make selected system calls on files fail, in any library.

One process runs the commands one after another. For each system call that changes a file, the
kernel asks a thread of the test (seccomp_unotify(2), x86-64). The call then either fails with an
error or continues unchanged.
"""

import ctypes
import fcntl
import os
import re
import select
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import NamedTuple

from tests.support.trainer import seccomp
from tests.support.trainer.workshop import DEADLINE, Server, command_code

ON_A_FILE = {
    1: "write",
    18: "write",
    20: "write",
    296: "write",
    40: "write",
    326: "write",
    74: "fsync",
    75: "fsync",
    77: "truncate",
    285: "allocate",
}
"""System calls by number. The file is the first argument, except for copy_file_range (326)."""
ON_A_PATH = {82: 0, 264: 1, 316: 1, 83: 0, 258: 1, 257: 1}
"""System calls by number, with the index of the path argument."""
PATH_NAMES = {82: "rename", 264: "rename", 316: "rename", 83: "mkdir", 258: "mkdir", 257: "open"}
OPENAT, COPY_FILE_RANGE = 257, 326
CREATES = os.O_CREAT | os.O_WRONLY | os.O_RDWR
AT_FDCWD = -100

RECEIVE, SEND = 0xC0502100, 0xC0182101
GO_ON = 1


class Site(NamedTuple):
    """A system call on a file; numbers and random parts of the name are removed."""

    call: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The ``count``-th call of a site fails with ``error``; ``lasting``: so do all later calls."""

    site: Site
    count: int
    error: int
    lasting: bool


class Volume:
    """Decides about the calls of one process; ``seen`` lists the calls on the volume, in order."""

    def __init__(self, work: Path, listener: int) -> None:
        """``listener``: the descriptor for questions of the kernel; it is closed at the end."""
        self.seen: list[Site] = []
        self._work = f"{work}/"
        self._listener = listener
        self._fault: Fault | None = None
        self._counts: Counter[Site] = Counter()
        self._failed = False
        threading.Thread(target=self._answer, daemon=True).start()

    def begin(self, fault: Fault | None) -> None:
        """Clear the recorded calls, and inject ``fault`` from now on."""
        self.seen = []
        self._counts.clear()
        self._failed = False
        self._fault = fault

    @property
    def failed(self) -> bool:
        """Whether a call failed with the error."""
        return self._failed

    def _answer(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        asked = bytearray(80)
        while not poll.poll()[0][1] & select.POLLHUP:
            asked[:] = bytes(80)
            try:
                fcntl.ioctl(self._listener, RECEIVE, asked)
                identity, process, _, number, _, _, *arguments = struct.unpack("QIIiIQ6Q", asked)
                error = self._error(process, number, arguments)
                answer = struct.pack("QqiI", identity, 0, -error, 0 if error else GO_ON)
                fcntl.ioctl(self._listener, SEND, answer)
            except FileNotFoundError:
                # The calling thread was interrupted by a signal or has ended.
                continue
        os.close(self._listener)

    def _error(self, process: int, number: int, arguments: list[int]) -> int:
        site = self._site(process, number, arguments)
        if site is None:
            return 0
        self.seen.append(site)
        self._counts[site] += 1
        fault = self._fault
        if fault is None:
            return 0
        hit = site == fault.site and self._counts[site] == fault.count
        if hit or (self._failed and fault.lasting):
            self._failed = True
            return fault.error
        return 0

    def _site(self, process: int, number: int, arguments: list[int]) -> Site | None:
        if number in ON_A_FILE:
            name = ON_A_FILE[number]
            path = _target(process, arguments[2 if number == COPY_FILE_RANGE else 0])
        else:
            if number == OPENAT and not arguments[2] & CREATES:
                return None
            name, at = PATH_NAMES[number], ON_A_PATH[number]
            path = _text(process, arguments[at])
            if not path.startswith("/"):
                folder = ctypes.c_int(arguments[0]).value if at else AT_FDCWD
                path = f"{_target(process, folder)}/{path}"
        if not path.startswith(self._work):
            return None
        inside = path.removeprefix(self._work)
        return Site(name, re.sub(r"\d+", "N", re.sub(r"\.tmp\w+", ".tmp", inside)))


@dataclass(frozen=True, kw_only=True)
class Commands:
    """A process that runs commands of the trainer on a volume."""

    volume: Volume
    connection: Connection

    def run(self, arguments: list[str], environment: dict[str, str], fault: Fault | None) -> int:
        """Run a command; return its exit code."""
        self.volume.begin(fault)
        self.connection.send((arguments, environment))
        assert self.connection.poll(DEADLINE), "the command does not end"
        code: int = self.connection.recv()
        return code


@contextmanager
def commands(server: Server, work: Path, log: Path) -> Iterator[Commands]:
    """Start the process, forked from a backend's server."""
    ours, theirs = Pipe()
    log.touch()
    process = server.start(_run, theirs, str(log))
    try:
        volume = Volume(work, recv_handle(ours))
        yield Commands(volume=volume, connection=ours)
        ours.send(None)
        process.join(DEADLINE)
    finally:
        process.kill()


def _run(connection: Connection, log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    listener = _listen()
    send_handle(connection, listener, None)
    os.close(listener)
    while (asked := connection.recv()) is not None:
        connection.send(command_code(*asked))


def _listen() -> int:
    """Install a filter for the calls of this thread and of the threads that it starts."""
    load, equal, give, allow, ask = 0x20, 0x15, 0x06, 0x7FFF0000, 0x7FC00000
    numbers = [*ON_A_FILE, *ON_A_PATH]
    program = [(load, 0, 0, 0)]
    program += [(equal, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    program += [(give, 0, 0, allow), (give, 0, 0, ask)]
    new_listener = 8
    return seccomp.install(program, flags=new_listener)


def _target(process: int, descriptor: int) -> str:
    name = "cwd" if descriptor == AT_FDCWD else f"fd/{descriptor}"
    try:
        return os.readlink(f"/proc/{process}/{name}")
    except OSError:
        return ""


def _text(process: int, address: int) -> str:
    found = b""
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        while b"\0" not in found and (part := memory.read(256)):
            found += part
    return found.partition(b"\0")[0].decode(errors="replace")
