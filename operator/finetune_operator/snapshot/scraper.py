"""Reading the metrics of a job's pods over the pod network.

A scrape that fails says nothing about the pod: it may be busy, starting or out of reach.
"""

from collections.abc import Awaitable, Callable

import aiohttp

TIMEOUT_SECONDS = 2.0
MOST_BYTES = 1 << 20

Scrape = Callable[[str, int], Awaitable[str | None]]
"""Takes a pod's address and a port, returns the metrics' text; None where there is none to read."""


class Scraper:
    """A ``Scrape`` over HTTP."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS), raise_for_status=True
        )

    async def __call__(self, address: str, port: int) -> str | None:
        """Read the metrics of the pod at an IPv4 or IPv6 address."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(f"http://{host}:{port}/metrics") as answer:
                text = await answer.content.read(MOST_BYTES)
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None
        return text.decode(errors="replace")

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
