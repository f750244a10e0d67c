"""``python -m finetune_operator --config FILE [--metrics-port N] [--probe-port N]``."""

import ctypes
import gc
import signal
import sys
from contextlib import suppress

YOUNG_OBJECTS = 20_000
"""New objects after which Python searches for unreachable cycles. A page of a list has as many."""

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3
"""Parameters of glibc's ``mallopt``."""
LARGE_BYTES = 128 << 10
"""The initial value of ``M_MMAP_THRESHOLD``, which glibc otherwise raises up to 32 MiB."""


def main() -> int:
    """Run the operator; return the exit code."""
    # PID 1 of a container ignores SIGTERM without a handler. The operator installs its own handler
    # only after all imports and the first requests.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    # With Python's default of 700, half of the processor time of a list is such searches, most of
    # them through the imported modules, which are never freed.
    gc.set_threshold(YOUNG_OBJECTS)
    return_memory()

    from finetune_operator import manager

    gc.collect()
    gc.freeze()
    return manager.main()


def return_memory() -> None:
    """Let freed memory be used again by all threads, and the kernel, if the C library is glibc.

    By default, each thread gets a heap of its own, and large blocks come from heaps once a large
    block was freed. The heaps of an operator with 5,000 jobs then keep 36 MiB of free memory. The
    threads compute one at a time (GIL), so they can share a heap.
    """
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


if __name__ == "__main__":
    sys.exit(main())
