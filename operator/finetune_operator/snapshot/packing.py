"""Objects of one kind as bytes, packed with the first of them as the dictionary. Pure.

Objects of a kind differ in little more than names, uids and times. Compared with a compression of
each object alone, the bytes are a fifth, and both directions take half the time. If the first
object is unusual, the others are only larger.
"""

import zlib
from typing import Any

from finetune_operator.objects.encoding import decoded

WINDOW_BITS, MEMORY_LEVEL = 13, 5
"""Of zlib. With its defaults, each compression would allocate 256 KiB, which the kernel clears.
This takes longer than to compress a small object. The result is 4 % larger."""
MOST_BYTES = 1 << WINDOW_BITS
"""The compression refers to no more bytes of its dictionary."""


class Packing:
    """Packs and unpacks objects. Equal objects have equal bytes."""

    def __init__(self) -> None:
        self._first: bytes | None = None

    def pack(self, plain: bytes) -> bytes:
        """Return an object as few bytes. plain: see ``objects.encoding``."""
        if self._first is None:
            self._first = plain[:MOST_BYTES]
        packer = zlib.compressobj(
            level=1, wbits=WINDOW_BITS, memLevel=MEMORY_LEVEL, zdict=self._first
        )
        return packer.compress(plain) + packer.flush()

    def unpack(self, packed: bytes) -> dict[str, Any]:
        """Return the object in bytes of this process."""
        unpacker = zlib.decompressobj(wbits=WINDOW_BITS, zdict=self._first or b"")
        body: dict[str, Any] = decoded(unpacker.decompress(packed))
        return body
