"""Client of vLLM's HTTP API, for the requests that the verification needs.

``/tokenize`` takes messages or a prompt and returns ``tokens`` and ``max_model_len``.
``/v1/completions`` with ``prompt_logprobs: 0`` returns, for each prompt token except the first, an
object with the token's id and log-probability. With ``logprobs: 0`` and ``return_token_ids``, it
returns the id and the log-probability of each generated token, before penalties and temperature.
``/v1/models`` lists an adapter with its base as ``parent`` (vLLM 0.32, entrypoints/serve/tokenize,
entrypoints/openai/completion and entrypoints/openai/models).
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from finetune_verify.errors import Mismatch, Unavailable

REQUEST_SECONDS = 300.0
METRICS_SECONDS = 5.0
MAX_METRICS_BYTES = 8 << 20
RETRY_SECONDS = 0.2


class VllmClient:
    """A vLLM server and the name of the served model."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        """``session`` sends the API key, if any, in its headers."""
        self._session = session
        self._url = url.rstrip("/")
        self.model = model
        self.answering = 0.0
        """Total seconds that the server took to answer, health checks excluded."""

    def of(self, model: str) -> "VllmClient":
        """Return a client for another model of the same server."""
        return VllmClient(self._session, self._url, model)

    async def healthy(self) -> bool:
        """Report whether the server is healthy."""
        try:
            async with self._session.get(f"{self._url}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def wait(self) -> None:
        """Wait until the server is healthy. Without a timeout: its own probes have one."""
        while True:
            if await self.healthy():
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def watch(self, seconds: float) -> None:
        """Check the server every ``seconds`` and return once it is not healthy."""
        while True:
            await asyncio.sleep(seconds)
            if not await self.healthy():
                return

    async def metrics(self) -> bytes | None:
        """Return the metrics of the server, None if it does not answer; empty if it has none."""
        timeout = aiohttp.ClientTimeout(total=METRICS_SECONDS)
        try:
            async with self._session.get(f"{self._url}/metrics", timeout=timeout) as response:
                text = bytearray()
                while (chunk := await response.content.readany()) and len(text) < MAX_METRICS_BYTES:
                    text += chunk
                if response.status == 404:
                    return b""
                return bytes(text) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def tokenize(self, request: dict[str, Any]) -> tuple[list[int], int]:
        """Return the token ids of messages or a prompt, and the maximum sequence length."""
        answer = await self._post("/tokenize", {"model": self.model, **request})
        try:
            return list(answer["tokens"]), int(answer["max_model_len"])
        except (KeyError, TypeError, ValueError) as error:
            raise Mismatch(f"/tokenize returned an unexpected response: {error!r}") from error

    async def logprobs(self, ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token of ``ids`` except the first."""
        request = {
            "model": self.model,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        answer = await self._post("/v1/completions", request)
        try:
            logprobs = answer["choices"][0]["prompt_logprobs"][1:]
            return [
                float(by_token[str(token)]["logprob"])
                for token, by_token in zip(ids[1:], logprobs, strict=True)
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Mismatch(f"/v1/completions returned no log-probabilities: {error!r}") from error

    async def base_name(self) -> str | None:
        """Return the name of the base, if the model is an adapter of the server."""
        answer = await self._request("GET", "/v1/models")
        try:
            parents = [model.get("parent") for model in answer["data"] if model["id"] == self.model]
        except (KeyError, TypeError, AttributeError) as error:
            raise Mismatch(f"/v1/models returned an unexpected response: {error!r}") from error
        return next((str(parent) for parent in parents if parent), None)

    async def next_logprob(
        self, ids: Sequence[int], token: int, *, cache_salt: str | None = None
    ) -> float:
        """Return the log-probability of ``token`` after ``ids``.

        cache_salt: the server takes nothing from its prefix cache that has another one.
        """
        salt = {} if cache_salt is None else {"cache_salt": cache_salt}
        generated = await self._generate(ids, max_tokens=1, allowed_token_ids=[token], **salt)
        if [generated_token for generated_token, _ in generated] != [token]:
            raise Mismatch(f"/v1/completions did not generate the only allowed token {token}")
        return generated[0][1]

    async def generate(
        self, ids: Sequence[int], count: int, *, cache_salt: str | None = None
    ) -> list[tuple[int, float]]:
        """Return the ``count`` most likely tokens after ``ids``, with their log-probabilities.

        The end of an answer does not end them, but other stop tokens of the model may. cache_salt:
        as of ``next_logprob``.
        """
        salt = {} if cache_salt is None else {"cache_salt": cache_salt}
        return await self._generate(ids, max_tokens=count, ignore_eos=True, **salt)

    async def _generate(self, ids: Sequence[int], **options: Any) -> list[tuple[int, float]]:
        request = {
            "model": self.model,
            "prompt": list(ids),
            "temperature": 0,
            "logprobs": 0,
            "return_token_ids": True,
            **options,
        }
        answer = await self._post("/v1/completions", request)
        try:
            choice = answer["choices"][0]
            scores = choice["logprobs"]["token_logprobs"]
            return [
                (int(token), float(score))
                for token, score in zip(choice["token_ids"], scores, strict=True)
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Mismatch(f"/v1/completions returned no generated tokens: {error!r}") from error

    async def _post(self, route: str, request: dict[str, Any]) -> Any:
        return await self._request("POST", route, json=request)

    async def _request(self, method: str, route: str, **options: Any) -> Any:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        began = time.monotonic()
        try:
            async with self._session.request(
                method, self._url + route, timeout=timeout, **options
            ) as response:
                if response.status >= 500:
                    raise Unavailable(f"vLLM answered {route} with HTTP {response.status}")
                if response.status >= 400:
                    # Without the body: it may repeat the row, which must not appear in a status.
                    raise Mismatch(f"vLLM answered {route} with HTTP {response.status}")
                return await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"{route}: {type(error).__name__}") from error
        finally:
            self.answering += time.monotonic() - began
