"""Reading a trainer's metrics over the pod network.

A scrape that fails says nothing about the trainer: it may be busy, starting or out of reach.
"""

from collections.abc import Awaitable, Callable

import aiohttp

from finetune_operator.progress import parsed
from finetune_operator.state import Progress

PORT = 9400
TIMEOUT_SECONDS = 2.0
MOST_BYTES = 1 << 20

Scrape = Callable[[str], Awaitable[Progress | None]]
"""Takes a pod's address, returns what its metrics say; None is "not known"."""


class Scraper:
    """A ``Scrape`` over HTTP."""

    def __init__(self, *, port: int = PORT) -> None:
        self._port = port
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS), raise_for_status=True
        )

    async def __call__(self, address: str) -> Progress | None:
        """Read the metrics of the pod at an IPv4 or IPv6 address."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(f"http://{host}:{self._port}/metrics") as answer:
                text = await answer.content.read(MOST_BYTES)
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None
        return parsed(text.decode(errors="replace"))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
