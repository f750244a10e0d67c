"""vLLM's HTTP API, as far as the verification needs it.

``/tokenize`` takes messages or a prompt and returns ``tokens`` and ``max_model_len``;
``/v1/completions`` with ``prompt_logprobs: 0`` returns, for each prompt token but the first, an
object with the token's own id and log-probability (vLLM 0.32, entrypoints/serve/tokenize and
entrypoints/openai/completion).
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from finetune_verify.errors import Mismatch, Unavailable

REQUEST_SECONDS = 300.0
RETRY_SECONDS = 0.2


class Endpoint:
    """One vLLM server and the name under which it serves the model."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        """``session`` carries the API key, if there is one, in its headers."""
        self._session = session
        self._url = url.rstrip("/")
        self._model = model
        self.answering = 0.0
        """Seconds that the server has taken to answer what it was asked, its health aside."""

    async def healthy(self) -> bool:
        """Tell whether the server answers now."""
        try:
            async with self._session.get(f"{self._url}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def wait(self) -> None:
        """Wait until the server answers, as long as it takes: its own probes have the deadline."""
        while True:
            if await self.healthy():
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def watch(self, seconds: float) -> None:
        """Return once the server no longer answers; look every ``seconds``."""
        while True:
            await asyncio.sleep(seconds)
            if not await self.healthy():
                return

    async def tokenize(self, asked: dict[str, Any]) -> tuple[list[int], int]:
        """Return the token ids of messages or of a prompt, and the longest sequence served."""
        answer = await self._post("/tokenize", {"model": self._model, **asked})
        try:
            return list(answer["tokens"]), int(answer["max_model_len"])
        except (KeyError, TypeError, ValueError) as error:
            raise Mismatch(f"/tokenize answered with something else: {error!r}") from error

    async def logprobs(self, ids: Sequence[int]) -> list[float]:
        """Return the log-probability of every token of ``ids`` but the first."""
        asked = {
            "model": self._model,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        answer = await self._post("/v1/completions", asked)
        try:
            found = answer["choices"][0]["prompt_logprobs"][1:]
            return [
                float(each[str(token)]["logprob"])
                for token, each in zip(ids[1:], found, strict=True)
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Mismatch(f"/v1/completions gave no log-probabilities: {error!r}") from error

    async def _post(self, route: str, asked: dict[str, Any]) -> Any:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        began = time.monotonic()
        try:
            async with self._session.post(
                self._url + route, json=asked, timeout=timeout
            ) as response:
                if response.status >= 500:
                    raise Unavailable(f"{route} answered {response.status}")
                if response.status >= 400:
                    # Not what it says: that may repeat the row, which no status may hold.
                    raise Mismatch(f"{route} refused with {response.status}")
                return await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"{route}: {type(error).__name__}") from error
        finally:
            self.answering += time.monotonic() - began
