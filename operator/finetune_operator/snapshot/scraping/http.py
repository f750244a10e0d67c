"""GET of a pod's metrics, for pods that cannot be trusted.

One HTTP/1.0 request without redirects, cookies, compression or chunks. The response is read up to
its largest size before any of it is parsed, in at most one read per ``PAUSE_SECONDS``. A general
HTTP client parses as it reads: aiohttp 3.14 blocked the event loop for 210 ms with one-byte chunks,
and for 170 ms with interim responses.
"""

import asyncio
import re

TIMEOUT_SECONDS = 2.0
MAX_HEADER_BYTES = 8 << 10
MAX_BODY_BYTES = 64 << 10
MAX_REPORT_BYTES = 3 << 19
"""Of the gate of an endpoint, with the state of each of its names: 64 adapters with 8 names each,
and 3 KiB for each name, of which its message has 1,024 characters."""
PAUSE_SECONDS = 0.01
_SUCCESS = re.compile(rb"HTTP/1\.[01] 200(?: [^\r\n]*)?\r\n")
_ENCODED = re.compile(rb"\n(?:content|transfer)-encoding[ \t]*:", re.IGNORECASE)


async def get(
    address: str, port: int, *, path: str = "/metrics", most: int = MAX_BODY_BYTES
) -> bytes | None:
    """Return the body of ``path`` at an IPv4 or IPv6 address, None if there is none.

    None also if the response is encoded, larger than ``most`` or slower than ``TIMEOUT_SECONDS``.
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return body(await _exchange(address, port, path, MAX_HEADER_BYTES + most), most)
    except (TimeoutError, OSError):
        return None


async def put(address: str, port: int, *, path: str, content: bytes) -> None:
    """Send a document to a pod. Whether the pod uses it is seen in what it reports."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await _exchange(address, port, path, MAX_HEADER_BYTES, content)
    except (TimeoutError, OSError):
        return


async def _exchange(
    address: str, port: int, path: str, most: int, content: bytes | None = None
) -> bytes:
    """Return the response, or its first ``most`` + 1 bytes. content: of a PUT, None for a GET."""
    # With the smallest limit, the transport receives again only after the previous bytes were read.
    reader, writer = await asyncio.open_connection(address, port, limit=1)
    try:
        host = f"[{address}]" if ":" in address else address
        method, length = "GET", ""
        if content is not None:
            method, length = "PUT", f"Content-Length: {len(content)}\r\n"
        writer.write(
            f"{method} {path} HTTP/1.0\r\nHost: {host}:{port}\r\nAccept: text/plain\r\n{length}"
            "Accept-Encoding: identity\r\nConnection: close\r\n\r\n".encode()
            + (content or b"")
        )
        response = bytearray()
        while len(response) <= most:
            received = await reader.read(most + 1 - len(response))
            if not received:
                break
            response += received
            await asyncio.sleep(PAUSE_SECONDS)
        return bytes(response)
    finally:
        writer.transport.abort()


def body(response: bytes, most: int = MAX_BODY_BYTES) -> bytes | None:
    """Return the body of a complete response with status 200 and no encoding, otherwise None.

    most: bytes that the body may have.
    """
    head, separator, content = response.partition(b"\r\n\r\n")
    if not separator or len(head) > MAX_HEADER_BYTES or len(content) > most:
        return None
    if _SUCCESS.match(head + separator) is None or _ENCODED.search(head) is not None:
        return None
    return content
