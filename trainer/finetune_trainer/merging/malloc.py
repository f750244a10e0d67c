"""Keep freed memory in the process instead of returning it to the kernel.

By default glibc returns freed blocks of a few MiB at once, and the kernel zeroes every page again
on the next use. Also, each thread has its own arena, which keeps the memory that thread used last.
Without this, a merge with base ``original`` takes 27 % more processor time (two cores, 0.4 GB: 1.75
instead of 1.38 s, medians of three), half a minute for 30 GB; with ``dequantized``, 2 %.
"""

import ctypes

LARGEST_KEPT = 32 * 1024 * 1024
"""Largest M_MMAP_THRESHOLD that mallopt(3) accepts, in bytes."""
NEVER = 1 << 30
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Constants of malloc.h."""


def keep() -> None:
    """Keep freed memory from now on, in one arena. Only glibc supports this."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(ARENA_MAX, 1)
        mallopt(MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(TRIM_THRESHOLD, NEVER)
