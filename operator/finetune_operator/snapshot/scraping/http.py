"""GET of a pod's metrics, for pods that cannot be trusted.

One HTTP/1.0 request without redirects, cookies, compression or chunks. The response is read up to
``MAX_BYTES`` before any of it is parsed, in at most one read per ``PAUSE_SECONDS``. A general HTTP
client parses as it reads: aiohttp 3.14 blocked the event loop for 210 ms with one-byte chunks, and
for 170 ms with interim responses.
"""

import asyncio
import re

TIMEOUT_SECONDS = 2.0
MAX_HEADER_BYTES = 8 << 10
MAX_BODY_BYTES = 64 << 10
MAX_BYTES = MAX_HEADER_BYTES + MAX_BODY_BYTES
PAUSE_SECONDS = 0.01
_SUCCESS = re.compile(rb"HTTP/1\.[01] 200(?: [^\r\n]*)?\r\n")
_ENCODED = re.compile(rb"\n(?:content|transfer)-encoding[ \t]*:", re.IGNORECASE)


async def get(address: str, port: int) -> bytes | None:
    """Return the body of ``/metrics`` at an IPv4 or IPv6 address, None if there is none.

    None also if the response is encoded, larger than ``MAX_BODY_BYTES`` or slower than
    ``TIMEOUT_SECONDS``.
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return body(await _exchange(address, port))
    except (TimeoutError, OSError):
        return None


async def _exchange(address: str, port: int) -> bytes:
    """Return the response, or its first ``MAX_BYTES`` + 1 bytes."""
    # With the smallest limit, the transport receives again only after the previous bytes were read.
    reader, writer = await asyncio.open_connection(address, port, limit=1)
    try:
        host = f"[{address}]" if ":" in address else address
        writer.write(
            f"GET /metrics HTTP/1.0\r\nHost: {host}:{port}\r\nAccept: text/plain\r\n"
            "Accept-Encoding: identity\r\nConnection: close\r\n\r\n".encode()
        )
        response = bytearray()
        while len(response) <= MAX_BYTES:
            received = await reader.read(MAX_BYTES + 1 - len(response))
            if not received:
                break
            response += received
            await asyncio.sleep(PAUSE_SECONDS)
        return bytes(response)
    finally:
        writer.transport.abort()


def body(response: bytes) -> bytes | None:
    """Return the body of a complete response with status 200 and no encoding, otherwise None."""
    if len(response) > MAX_BYTES:
        return None
    head, separator, content = response.partition(b"\r\n\r\n")
    if not separator or len(head) > MAX_HEADER_BYTES or len(content) > MAX_BODY_BYTES:
        return None
    if _SUCCESS.match(head + separator) is None or _ENCODED.search(head) is not None:
        return None
    return content
