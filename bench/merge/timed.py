"""Run one function in a new process; measure its wall time, without startup, and its memory.

The process imports its modules and waits. While the function runs, the anonymous memory of the
process (RssAnon: neither mapped files nor page cache) is sampled every few milliseconds.
"""

import importlib
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from finetune_trainer.runtime import pod_limits

SAMPLE_SECONDS = 0.003


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Wall seconds, and peak anonymous memory in bytes, including the interpreter."""

    seconds: float
    anonymous: int


def run(
    function: Callable[..., None],
    *arguments: Any,
    imports: Sequence[str] = (),
    cold: Iterable[Path] = (),
) -> Cost:
    """Run a module-level function in a new process.

    imports: modules to import before the clock starts. cold: files to evict from the page cache
    before.
    """
    # As in the trainer. Set here, because the new process loads OpenMP before its own code runs.
    pod_limits.limit_threads(os.environ)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, imports, function, arguments))
    process.start()
    theirs.close()
    ours.recv()
    for path in cold:
        drop(path)
    os.sync()
    peak = _anonymous(process.pid)
    ours.send(None)
    while not ours.poll(SAMPLE_SECONDS):
        peak = max(peak, _anonymous(process.pid))
    seconds: float = ours.recv()
    process.join()
    return Cost(seconds=seconds, anonymous=peak)


def drop(path: Path) -> None:
    """Evict a file from the page cache, so that it is read from disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _child(
    pipe: Connection,
    imports: Sequence[str],
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    for name in imports:
        importlib.import_module(name)
    pipe.send(None)
    pipe.recv()
    began = time.monotonic()
    function(*arguments)
    pipe.send(time.monotonic() - began)


def _anonymous(process: int | None) -> int:
    match = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.M)
    return int(match[1]) * 1024 if match else 0
