"""How the C library keeps memory: freed pieces of a few MiB stay with the process, once.

The library gives such pieces back to the kernel as soon as they are freed, and the kernel clears
each page anew when it is touched next: a product of matrices took 2.5 ns a number that way instead
of 0.5. And every thread has a heap of its own, which keeps what that thread used last.
"""

import ctypes

LARGEST_KEPT = 32 * 1024 * 1024
"""The most that mallopt takes."""
NEVER = 1 << 30
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Of malloc.h."""


def keep() -> None:
    """Keep freed memory from now on, in one heap. Only the GNU C library can be told that."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(ARENA_MAX, 1)
        mallopt(MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(TRIM_THRESHOLD, NEVER)
