"""The gate of a shared endpoint alone: the cost of an event, next to other proxies.

A server replays the streams of vLLM on a Unix socket. A caller reads them directly, through the
gate, through the gate's handling of events on another stack (``starlette_gate``, if its
packages are installed), and through a proxy in Go that copies bytes without reading them. They take
turns, so that a change of the machine affects all. Server, caller and proxy are one Go program
(``replay``); each runs in a process of its own.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.support.ports import free_port

from bench.table import table

SOURCE = Path(__file__).parent / "replay" / "main.go"
REPOSITORY = Path(__file__).resolve().parents[2]
HEAD = ("path", "CPU µs per event", "p50, ms", "p99, ms", "added p50", "added p99", "MiB a stream")
START_SECONDS = 20.0
GATE, COPY, OTHER_STACK = "gate (aiohttp)", "byte copy (Go)", "Starlette, uvicorn and httpx"


@dataclass(frozen=True, kw_only=True)
class Round:
    """One measurement. Times are in seconds and milliseconds; memory in bytes a stream."""

    events: int
    p50: float
    p99: float
    processor: float = 0.0
    memory: float = 0.0


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    command.add_argument("--streams", type=int, default=64, help="streams at once")
    command.add_argument("--rate", type=int, default=50, help="events per second of each stream")
    command.add_argument("--seconds", type=int, default=10, help="duration of each round")
    command.add_argument("--rounds", type=int, default=3, help="rounds of each path")


def measure(options: argparse.Namespace) -> str:
    """Run the benchmark and return its table."""
    go = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
    if go is None:
        return "not measured: go is not installed"
    with tempfile.TemporaryDirectory(prefix="bench-endpoint-") as name:
        folder = Path(name)
        program, socket = folder / "replay", folder / "vllm.sock"
        subprocess.run([go, "build", "-o", str(program), str(SOURCE)], check=True)
        module = [sys.executable, "-m"]
        commands = {
            GATE: [*module, "bench.endpoint.gate", str(socket), "{port}"],
            OTHER_STACK: [*module, "bench.endpoint.starlette_gate", str(socket), "{port}"],
            COPY: [str(program), "copy", "127.0.0.1:{port}", str(socket)],
        }
        missing = [name for name in ("starlette", "uvicorn", "httpx") if find_spec(name) is None]
        if missing:
            print(
                f"    {OTHER_STACK}: not measured, {', '.join(missing)} not installed", flush=True
            )
            del commands[OTHER_STACK]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        paths: dict[str, tuple[str, str, int | None]] = {"direct": ("unix", str(socket), None)}
        with ExitStack() as stack:
            stack.enter_context(_running([str(program), "serve", str(socket), str(options.rate)]))
            _wait(socket.exists)
            for path, command in commands.items():
                port = free_port()
                words = [word.format(port=port) for word in command]
                process = stack.enter_context(_running(words, environment))
                _wait(lambda port=port: _listens(port))  # type: ignore[misc]
                paths[path] = ("tcp", f"127.0.0.1:{port}", process.pid)
            rounds: dict[str, list[Round]] = {path: [] for path in paths}
            idle = {path: _usage(target[2])[1] for path, target in paths.items()}
            for number in range(options.rounds + 1):
                for path, target in paths.items():
                    measured = _round(program, *target, options, idle=idle[path])
                    # The first round warms up.
                    if number:
                        rounds[path].append(measured)
                        print(f"    {path}: {measured}", flush=True)
    rate = options.streams * options.rate
    return (
        f"{options.streams} streams, {rate} events per second, {options.rounds} rounds of "
        f"{options.seconds} s, medians.\n\n{_table(rounds)}"
    )


def _table(rounds_by_path: dict[str, list[Round]]) -> str:
    direct = rounds_by_path["direct"]
    rows = []
    for path, rounds in rounds_by_path.items():
        events = statistics.median(
            1e6 * measured.processor / measured.events for measured in rounds
        )
        p50, p99 = (
            statistics.median(getattr(measured, name) for measured in rounds) for name in _TIMES
        )
        base50, base99 = (
            statistics.median(getattr(measured, name) for measured in direct) for name in _TIMES
        )
        memory = statistics.median(measured.memory for measured in rounds) / 2**20
        is_direct = path == "direct"
        rows.append(
            (
                path,
                "–" if is_direct else f"{events:.1f}",
                f"{p50:.2f}",
                f"{p99:.2f}",
                "–" if is_direct else f"{p50 - base50:.2f}",
                "–" if is_direct else f"{p99 - base99:.2f}",
                "–" if is_direct else f"{memory:.3f}",
            )
        )
    costs = [
        statistics.median(measured.processor / measured.events for measured in rounds_by_path[path])
        for path in (GATE, COPY)
    ]
    return (
        f"{table(HEAD, rows)}\n\nThe gate uses {costs[0] / costs[1]:.1f} times the CPU of a copy."
    )


_TIMES = ("p50", "p99")


def _round(
    program: Path,
    network: str,
    address: str,
    pid: int | None,
    options: argparse.Namespace,
    *,
    idle: int,
) -> Round:
    """Measure one path. idle: resident bytes of its process before any stream."""
    numbers = (options.streams, options.seconds, options.rate)
    before = _usage(pid)
    with subprocess.Popen(
        [str(program), "call", network, address, *map(str, numbers)],
        stdout=subprocess.PIPE,
        text=True,
    ) as caller:
        time.sleep(options.seconds / 2)
        during = _usage(pid)
        output, _ = caller.communicate()
    if caller.returncode:
        raise RuntimeError(f"the caller of {address} ended with {caller.returncode}")
    after = _usage(pid)
    return Round(
        **json.loads(output),
        processor=after[0] - before[0],
        memory=(during[1] - idle) / options.streams,
    )


def _usage(pid: int | None) -> tuple[float, int]:
    """Return the CPU seconds and the resident bytes of a process."""
    if pid is None:
        return 0.0, 0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _running(
    command: list[str], environment: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(command, env=environment, cwd=REPOSITORY)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    tables = (Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
    return any(f":{port:04X} 0" in text for text in tables)


def _wait(is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_there():
        if time.monotonic() > deadline:
            raise TimeoutError("a server did not start")
        time.sleep(0.05)
