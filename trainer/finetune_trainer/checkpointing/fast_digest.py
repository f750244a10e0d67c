"""BLAKE3 of files: a quarter of the processor time of SHA-256, for a stage that lacks cores.

Manifests keep SHA-256, which everybody can check. A stage that reads a folder anyway records BLAKE3
of the same bytes, and the next stage compares that.
"""

import ctypes
import hashlib
import mmap
import os
from pathlib import Path

import numpy as np
from blake3 import blake3

from finetune_api.safety import untrusted_file

READ_BYTES = 1 << 18
"""Bytes per read: they stay in the processor cache until both digests have used them."""
MAPPED_BYTES = 1 << 22
"""Bytes that are mapped at once."""
POPULATE_READ = 22
"""MADV_POPULATE_READ of madvise(2), since Linux 5.14."""
LIBC = ctypes.CDLL(None)


def sha256_and_blake3(path: Path) -> tuple[str, str]:
    """Return both digests of a file in hex, from one read."""
    slow, fast = hashlib.sha256(), blake3()
    buffer = memoryview(bytearray(READ_BYTES))
    with untrusted_file.open_regular(path) as file:
        while count := file.readinto(buffer):
            slow.update(buffer[:count])
            fast.update(buffer[:count])
    return slow.hexdigest(), fast.hexdigest()


def blake3_of(path: Path) -> str:
    """Return the BLAKE3 digest of a file in hex, without copying the file from the page cache."""
    digest = blake3()
    with untrusted_file.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return digest.hexdigest()
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
            address = np.frombuffer(view, np.uint8).ctypes.data
            for start in range(0, size, MAPPED_BYTES):
                count = min(MAPPED_BYTES, size - start)
                if not _populate(address + start, count):
                    # An older kernel, or an error of the disk, which the read raises.
                    digest.update(os.pread(file.fileno(), count, start))
                    continue
                with view[start : start + count] as part:
                    digest.update(part)
    return digest.hexdigest()


def _populate(address: int, count: int) -> bool:
    """Read the pages of a mapped range from disk; return False if they cannot be read.

    ``mmap.madvise`` keeps the lock of the interpreter while the disk reads, so that no other thread
    could compute: with it, a merge takes a third longer.
    """
    result: int = LIBC.madvise(
        ctypes.c_void_p(address), ctypes.c_size_t(count), ctypes.c_int(POPULATE_READ)
    )
    return result == 0
