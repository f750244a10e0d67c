"""vLLM behind its Unix socket.

Nothing else reaches the socket: the API that loads adapters is open to everyone who does. Each
start of vLLM makes a new socket file, so the identity of the file tells which start answers, at the
cost of one system call. vLLM does not remove the file of an earlier start, so the container
removes it before it starts vLLM.
"""

import asyncio
import hashlib
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from finetune_gate.errors import Busy
from finetune_gate.queue.fairness import BASE
from finetune_verify.errors import Unavailable
from finetune_verify.vllm_client import VllmClient

URL = "http://vllm"
"""The host is not resolved: the connector opens the socket."""
READ_BYTES = 1 << 14
"""Buffer of a response, of which aiohttp reads up to twice as much ahead of a slow caller."""
CONTROL_SECONDS = 120.0
"""Time limit to load an adapter, from a slow disk."""
Place = Callable[[str], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Running:
    """What vLLM's metrics say about the present batch."""

    requests: int
    adapters: frozenset[str]


class Engine:
    """The running vLLM.

    base: internal name of the adapter that changes nothing (``adapters.no_change``), with which the
    base answers.
    """

    def __init__(self, socket: Path, *, base: str, place: Place) -> None:
        """base: name under which vLLM serves the base, which no request uses.

        place: waits for a place of a request for an adapter, by its internal name.
        """
        self.base = self._unadapted = base
        self._socket = socket
        self._place = place
        # Without a limit of connections: ``fairness`` decides how many requests run. None is used
        # twice: vLLM closes idle ones, and a request that meets the end of its connection fails.
        self.session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(socket), limit=0, force_close=True),
            read_bufsize=READ_BYTES,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()

    def boot(self) -> str | None:
        """Return the start of vLLM that owns the socket; None if there is no socket."""
        try:
            facts = self._socket.stat()
        except OSError:
            return None
        identity = f"{facts.st_dev}-{facts.st_ino}-{facts.st_ctime_ns}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    async def healthy(self) -> bool:
        """Report whether vLLM is healthy."""
        try:
            async with asyncio.timeout(5), self.session.get(f"{URL}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def client(self, internal: str, *, template: str | None = None) -> "ScoringClient":
        """Return a client that proves an adapter."""
        return ScoringClient(self, internal, template=template, place=self._place)

    async def load(self, internal: str, folder: Path) -> None:
        """Load an adapter under a name. Raise LoadFailed or Unavailable."""
        await self._control(
            "/v1/load_lora_adapter", {"lora_name": internal, "lora_path": str(folder)}
        )

    async def unload(self, internal: str) -> None:
        """Forget the name of an adapter; running requests end on its weights."""
        # A vLLM that has restarted does not know it.
        with suppress(LoadFailed):
            await self._control("/v1/unload_lora_adapter", {"lora_name": internal})

    async def loaded(self) -> set[str]:
        """Return the internal names of the adapters that vLLM serves. Raise Unavailable."""
        try:
            async with asyncio.timeout(5), self.session.get(f"{URL}/v1/models") as response:
                models = await response.json()
            return {str(model["id"]) for model in models["data"]} - {self._unadapted}
        except (aiohttp.ClientError, TimeoutError, KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"/v1/models: {type(error).__name__}") from error

    async def running(self) -> Running:
        """Return what runs now. Raise Unavailable."""
        try:
            async with asyncio.timeout(5), self.session.get(f"{URL}/metrics") as response:
                return running(await response.text())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"/metrics: {type(error).__name__}") from error

    async def _control(self, route: str, body: dict[str, Any]) -> None:
        try:
            async with (
                asyncio.timeout(CONTROL_SECONDS),
                self.session.post(f"{URL}{route}", json=body) as response,
            ):
                if response.status >= 500:
                    raise Unavailable(f"vLLM answered {route} with HTTP {response.status}")
                if response.status >= 400:
                    text = (await response.text())[:500]
                    raise LoadFailed(f"vLLM answered {route} with HTTP {response.status}: {text}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"{route}: {type(error).__name__}") from error


class LoadFailed(Exception):
    """vLLM does not accept an adapter; the text is vLLM's."""


class ScoringClient(VllmClient):
    """The verifier's client, for an adapter of an engine that others use at the same time.

    Each request waits for a place, like those of callers. Conversations are tokenized with the
    template of the job. ``cached``: tokens of the last prompt that came from the prefix cache.
    """

    def __init__(self, engine: Engine, model: str, *, template: str | None, place: Place) -> None:
        super().__init__(engine.session, URL, model)
        self._engine, self._template, self.place = engine, template, place
        self.cached = 0

    def of(self, model: str) -> "ScoringClient":
        """Return a client for another model of the engine."""
        return ScoringClient(self._engine, model, template=None, place=self.place)

    async def base_name(self) -> str | None:
        """Return the name of the base."""
        return self._engine.base

    async def tokenize(self, request: dict[str, Any]) -> tuple[list[int], int]:
        """Return the token ids of messages or a prompt, and the maximum sequence length."""
        if self._template is not None and "messages" in request:
            request = {**request, "chat_template": self._template}
        return await super().tokenize(request)

    async def _request(self, method: str, route: str, **options: Any) -> Any:
        name = BASE if self.model == self._engine.base else self.model
        try:
            async with self.place(name):
                answer = await super()._request(method, route, **options)
        except Busy as error:
            raise Unavailable(str(error)) from error
        usage = answer.get("usage") if isinstance(answer, dict) else None
        details = (usage or {}).get("prompt_tokens_details") or {}
        self.cached = int(details.get("cached_tokens") or 0)
        return answer


def running(metrics: str) -> Running:
    """Return what vLLM's metrics say about the present batch.

    ``lora_requests_info`` keeps a series for each earlier combination of adapters; its value is the
    time at which the combination was seen last.
    """
    requests, latest, adapters = 0.0, -math.inf, ""
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "vllm:num_requests_running":
                requests += sample.value
            elif sample.name == "vllm:lora_requests_info" and sample.value > latest:
                latest, adapters = sample.value, sample.labels["running_lora_adapters"]
    return Running(requests=int(requests), adapters=frozenset(adapters.split(",")) - {""})
