"""Scrapes the metrics of a job's pods over the pod network.

A failed scrape is no information about the pod: it may be busy, starting or unreachable.
"""

from collections.abc import Awaitable, Callable

import aiohttp

TIMEOUT_SECONDS = 2.0
MAX_BYTES = 1 << 20

Scrape = Callable[[str, int], Awaitable[str | None]]
"""Takes address and port of a pod; returns the text of its metrics, None if the scrape failed."""


class Scraper:
    """A ``Scrape`` over HTTP."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS), raise_for_status=True
        )

    async def __call__(self, address: str, port: int) -> str | None:
        """Return the metrics of the pod at an IPv4 or IPv6 address, None if the scrape failed."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(f"http://{host}:{port}/metrics") as response:
                text = await response.content.read(MAX_BYTES)
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None
        return text.decode(errors="replace")

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
