"""The files of a folder with their SHA-256, as one short text for the result of a stage.

A result has 4,096 bytes for everything. In this form, a file takes about 50 of them.
"""

import base64
import binascii
import zlib
from collections.abc import Mapping

_DIGEST = 32
"""Bytes of a SHA-256."""
_LONGEST = 1 << 16
"""Bytes of all names. Texts that expand to more are not read: a compromised pod may write them."""


def pack(files: Mapping[str, str]) -> str:
    """Return files as a text. files: SHA-256 (hex) by path in the folder."""
    ordered = sorted(files)
    names = zlib.compress("\0".join(ordered).encode(), 9)
    digests = b"".join(bytes.fromhex(files[name]) for name in ordered)
    return base64.b64encode(names + digests).decode()


def unpack(text: str) -> dict[str, str]:
    """Return the files in a text of ``pack``. Raise ValueError."""
    expander = zlib.decompressobj()
    try:
        data = base64.b64decode(text, validate=True)
        names = expander.decompress(data, _LONGEST).decode().split("\0")
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"it is no list of files ({error})") from None
    digests = expander.unused_data
    if not expander.eof or len(digests) != _DIGEST * len(names):
        raise ValueError(f"it is no list of at most {_LONGEST:,} bytes with a digest for each file")
    if names != sorted({*names}):
        raise ValueError("its names are not in order, or name a file twice")
    return {name: digests[at * _DIGEST : (at + 1) * _DIGEST].hex() for at, name in enumerate(names)}
