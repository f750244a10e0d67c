"""Streams of a neighbour and of the base, which decode while an adapter is scored.

In one batch, an engine can give one request the weights of another. So a score counts only if the
others decoded at the same time: each of their streams delivered a token between request and
response, and vLLM's metrics list them as running before and after.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from finetune_gate.engine import URL, Engine, Place
from finetune_gate.errors import Busy
from finetune_gate.queue.fairness import BASE
from finetune_verify.errors import Unavailable

DECODED = 256
"""Tokens of a stream, at most, which then starts again."""
PROMPT = 64
"""Tokens of its prompt, at most."""
ATTEMPTS = 20
"""Repetitions until all streams decode at the same time as a score is computed."""
START_SECONDS = 60.0
"""Time in which all streams must decode: they wait for places, like requests of callers."""


class _Stream:
    """An endless generation. ``tokens``: events received so far."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.tokens = 0

    async def run(self, engine: Engine, place: Place, prompt: Sequence[int], decoded: int) -> None:
        body = {
            "model": self.model,
            "prompt": list(prompt),
            "max_tokens": decoded,
            "ignore_eos": True,
            "stream": True,
        }
        name = BASE if self.model == engine.base else self.model
        while True:
            async with (
                place(name),
                engine.session.post(f"{URL}/v1/completions", json=body) as response,
            ):
                if response.status != 200:
                    raise Unavailable(f"a stream of {self.model} ended with {response.status}")
                async for line in response.content:
                    self.tokens += line.startswith(b"data: {")


class Company:
    """The streams that run."""

    def __init__(self, engine: Engine, streams: Sequence[_Stream], tasks: Sequence[Any]) -> None:
        self._engine, self._streams, self._tasks = engine, streams, tasks

    @property
    def neighbours(self) -> list[str]:
        """The adapters among the streams."""
        return [stream.model for stream in self._streams if stream.model != self._engine.base]

    async def during(self, compute: Callable[[], Awaitable[Any]]) -> Any:
        """Return the result of a computation during which all streams decoded.

        Raise Unavailable if they do not within some attempts.
        """
        for _ in range(ATTEMPTS):
            await self._started()
            before = [stream.tokens for stream in self._streams]
            result = await compute()
            pairs = zip(self._streams, before, strict=True)
            if await self._decode() and all(stream.tokens > count for stream, count in pairs):
                return result
        raise Unavailable("the streams of neighbour and base did not decode during a score")

    async def _started(self) -> None:
        """Wait until all streams decode."""
        deadline = time.monotonic() + START_SECONDS
        while not (all(stream.tokens for stream in self._streams) and await self._decode()):
            if time.monotonic() > deadline:
                raise Unavailable("the streams of neighbour and base did not start")
            await asyncio.sleep(0.01)

    async def _decode(self) -> bool:
        """Report whether vLLM lists all streams as running."""
        self._raise()
        now = await self._engine.running()
        models = {stream.model for stream in self._streams}
        return now.requests >= len(self._streams) and now.adapters >= models

    def _raise(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()


@asynccontextmanager
async def company(
    engine: Engine, place: Place, prompt: Sequence[int], *, neighbour: str | None, longest: int
) -> AsyncIterator[Company]:
    """Let the base and a neighbour, if there is one, decode within the block.

    longest: tokens that the engine accepts, of prompt and answer together.
    """
    prompt = prompt[: min(PROMPT, longest // 2)]
    decoded = min(DECODED, longest - len(prompt))
    streams = [_Stream(model) for model in (engine.base, neighbour) if model is not None]
    tasks = [
        asyncio.create_task(
            stream.run(engine, place, prompt, decoded), name=f"company {stream.model}"
        )
        for stream in streams
    ]
    try:
        yield Company(engine, streams, tasks)
    except (aiohttp.ClientError, Busy) as error:
        raise Unavailable(f"a stream ended: {type(error).__name__}") from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
