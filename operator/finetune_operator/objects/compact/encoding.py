"""Objects as bytes, for the cache: MessagePack. Pure.

The bytes depend on nothing but the value. The objects of 5,000 jobs that serve take 198 MiB, and as
dicts 662 MiB, which exceeds the memory limit of the chart (512 MiB). Compression would save another
144 MiB and cost two thirds more time for each read. Compared with marshal of Python, the bytes take
half the time to write and are a quarter fewer.
"""

import json
from typing import Any

from msgspec import msgpack

_encoder = msgpack.Encoder()
_decoder = msgpack.Decoder()
_JSON = b"\xc1"
"""Precedes JSON; no MessagePack begins with this byte."""


def encoded(value: Any) -> bytes:
    """Return a value of JSON as bytes."""
    try:
        return _encoder.encode(value)
    except (UnicodeEncodeError, OverflowError):
        # Half of a surrogate pair, or an integer of more than 64 bits.
        return _JSON + json.dumps(value).encode()


def decoded(data: bytes) -> Any:
    """Return the value of ``encoded``."""
    return json.loads(data[1:]) if data.startswith(_JSON) else _decoder.decode(data)
