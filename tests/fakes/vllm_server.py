"""A server with the routes of vLLM that a shared endpoint uses, on a Unix socket.

Its model is a hash: the log-probability of a token after a prefix is a number that depends on both,
and an adapter adds another one, which depends on the bytes of its file. So each adapter has scores
of its own, a reference can be computed for it, and each answer shows which adapter made it. Faults
of real engines can be switched on.
"""

import asyncio
import hashlib
import itertools
import json
import struct
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

BASE = "base"
SLOTS = 4
"""Of ``--max-loras``: one more than ``--max-active`` of ``tests.support.gate.gate``."""
BLOCK = 128
CANDIDATES = 4


def _fractions(prefix: "hashlib.blake2b", token: int, seed: str) -> tuple[float, float]:
    """Return two numbers below 1: of the base, and of an adapter."""
    base = prefix.copy()
    base.update(struct.pack("<I", token))
    tuned = base.copy()
    tuned.update(seed.encode())
    return tuple(  # type: ignore[return-value]
        int.from_bytes(each.digest()[:6], "little") / 2**48 for each in (base, tuned)
    )


def score(prefix: "hashlib.blake2b", token: int, seed: str, scale: float = 1.0) -> float:
    """Return a log-probability. seed: of the adapter; empty for the base."""
    base, tuned = _fractions(prefix, token, seed)
    change = 1.5 * scale * (tuned - 0.5) if seed else 0.0
    return min(-1e-3, -0.05 - 3 * base + change)


def prefixes(ids: Sequence[int]) -> "Iterator[tuple[hashlib.blake2b, int]]":
    """Yield each token except the first with the hash of the tokens before it."""
    digest = hashlib.blake2b(digest_size=16)
    for before, token in itertools.pairwise(ids):
        digest.update(struct.pack("<I", before))
        yield digest, token


def scores(ids: Sequence[int], seed: str, scale: float = 1.0) -> list[float]:
    """Return the log-probability of each token except the first."""
    return [score(digest, token, seed, scale) for digest, token in prefixes(ids)]


def seed_of(weights: bytes) -> str:
    """Return the seed of an adapter, from its file."""
    return hashlib.sha256(weights).hexdigest()[:12]


def render(template: str, messages: Sequence[dict[str, Any]]) -> list[int]:
    """Return the token ids of a conversation: the bytes of its text."""
    lines = [f"{each['role']}: {each['content']}" for each in messages]
    return list("\n".join([template, *lines, "assistant: "]).encode())


@dataclass
class Faults:
    """What this engine does wrong."""

    scale: float = 1.0
    """Factor of every adapter."""
    base_gets_adapter: bool = False
    """The base answers with an adapter's weights while one of its requests runs."""
    leaks: bool = False
    """An adapter answers with the weights of another one that runs."""
    stale_cache: bool = False
    """Answers from the prefix cache are those of other weights."""
    loads: dict[str, str] = field(default_factory=dict)
    """The seed that is loaded instead, by the right one."""
    ignores_template: bool = False
    refuses_load: bool = False
    refuses_unchanged: bool = False
    """Whether it answers 400 instead of loading an adapter that changes nothing."""
    refuses_unload: bool = False
    """Whether it answers 500 instead of unloading an adapter."""
    load_errors: set[str] = field(default_factory=set)
    """Seeds of adapters that it answers with 500 instead of loading them."""
    score_errors: set[str] = field(default_factory=set)
    """Seeds of adapters whose scores are answered with 500, as if they were NaN."""
    fatal_loads: set[str] = field(default_factory=set)
    """Seeds of adapters that end it while they are loaded. It starts again."""
    fatal_scores: set[str] = field(default_factory=set)
    """Seeds of adapters that end it while they are scored. It starts again."""
    caches: bool = True


class FakeVllm:
    """One start of the server after another. ``requests``: bodies received, in order."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.faults = Faults()
        self.adapters: dict[str, str] = {}
        """Seeds by name, without those of ``unchanged``."""
        self.unchanged: set[str] = set()
        """Names of adapters that change nothing."""
        self.paths: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.running: list[str] = []
        self.aborted: list[float] = []
        self.longest_run = 0.0
        """Seconds that the longest completed request ran."""
        self.interval = 0.001
        self.longest = 4096
        self.template = "default"
        self.hides_running = False
        """Whether its metrics list no running request."""
        self.event_bytes = 0
        """Further bytes of text in each event."""
        self.answer_bytes = 0
        """Bytes that follow each answer that is no stream, as log-probabilities do."""
        self.loads: list[str] = []
        """Seeds of the adapters that it should have loaded, in order."""
        self.deaths = 0
        """How often an adapter has ended it."""
        self._slots: list[str] = []
        """Names of the adapters in the slots. An unloaded one keeps its slot, as in vLLM."""
        self._used: list[str] = []
        """The same names, the one that was used last at the end."""
        self._weights: dict[str, str] = {}
        """Seeds of all adapters, also of those that were unloaded, by name."""
        self._cached: set[tuple[str, str, str]] = set()
        self._restart: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Start, with no adapters."""
        self.adapters, self._cached, self.running = {}, set(), []
        self.unchanged = set()
        self._slots, self._used = [], []
        app = web.Application(client_max_size=1 << 26)
        add = app.router.add_route
        add("GET", "/health", self._health)
        add("GET", "/metrics", self._metrics)
        add("GET", "/v1/models", self._models)
        add("POST", "/tokenize", self._tokenize)
        add("POST", "/v1/load_lora_adapter", self._load)
        add("POST", "/v1/unload_lora_adapter", self._unload)
        add("POST", "/v1/completions", self._generate)
        add("POST", "/v1/chat/completions", self._generate)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.01
        )
        await self._runner.setup()
        self.socket.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self.socket)).start()

    async def kill(self) -> None:
        """End all connections. The socket file stays, as that of vLLM does."""
        assert self._runner is not None
        await self._runner.cleanup()
        self._runner = None
        if not self.socket.exists():
            self.socket.touch()

    async def restart(self) -> None:
        """Start again."""
        if self._runner is not None:
            await self.kill()
        await self.start()

    async def _die(self) -> None:
        self.deaths += 1
        self._restart = asyncio.create_task(self.restart())
        await asyncio.Event().wait()

    def has_file(self, path: str) -> bool:
        """Report whether an adapter could be read again from its path."""
        return (Path(path) / "adapter_model.safetensors").is_file()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.Response:
        running = [] if self.hides_running else self.running
        names = ",".join(sorted({each for each in running if each != BASE}))
        labels = f'max_lora="4",running_lora_adapters="{names}",waiting_lora_adapters=""'
        return web.Response(
            text="# TYPE vllm:num_requests_running gauge\n"
            f'vllm:num_requests_running{{engine="0"}} {len(running)}\n'
            "# TYPE vllm:lora_requests_info gauge\n"
            'vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",'
            'waiting_lora_adapters=""} 1.0\n'
            f"vllm:lora_requests_info{{{labels}}} {time.time()}\n"
        )

    async def _models(self, _: web.Request) -> web.Response:
        data = [{"id": BASE, "parent": None}]
        data += [{"id": name, "parent": BASE} for name in (*self.unchanged, *self.adapters)]
        return web.json_response({"data": data})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "messages" in body:
            tokens = render(self._template(body), body["messages"])
        else:
            tokens = list(body["prompt"].encode())
        return web.json_response({"tokens": tokens, "max_model_len": self.longest})

    def _template(self, body: dict[str, Any]) -> str:
        own = None if self.faults.ignores_template else body.get("chat_template")
        return self.template if own is None else str(own)

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        if self.faults.refuses_load or name in self.adapters:
            return web.json_response({"error": {"message": "refused"}}, status=400)
        assert path.is_absolute()
        weights = (path / "adapter_model.safetensors").read_bytes()
        if not any(weights[8 + struct.unpack("<Q", weights[:8])[0] :]):
            if self.faults.refuses_unchanged:
                return web.json_response({"error": {"message": "refused"}}, status=400)
            self._activate(name)
            self.unchanged.add(name)
            return web.Response(text="Success")
        seed = seed_of(weights)
        self.loads.append(seed)
        if seed in self.faults.load_errors:
            return web.Response(status=500)
        if seed in self.faults.fatal_loads:
            await self._die()
        self.adapters[name] = self.faults.loads.get(seed, seed)
        self.paths.append(str(path))
        self._weights[name] = self.adapters[name]
        self._activate(name)
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.faults.refuses_unload:
            return web.Response(status=500)
        is_loaded = name in self.adapters or name in self.unchanged
        self.adapters.pop(name, None)
        self.unchanged.discard(name)
        return web.Response(status=200 if is_loaded else 404)

    def _activate(self, name: str) -> None:
        """Put an adapter into a slot: a free one, or that of the one used longest ago."""
        if name in self._used:
            self._used.remove(name)
        elif len(self._slots) < SLOTS:
            self._slots.append(name)
        else:
            self._slots[self._slots.index(self._used.pop(0))] = name
        self._used.append(name)

    def _seed(self, name: str) -> str:
        others = [self.adapters[each] for each in self.running if each in self.adapters]
        if name == BASE and others and len(self._slots) == SLOTS:
            # On a CPU, a request without an adapter takes the last slot in a mixed batch.
            return self._weights.get(self._slots[-1], "")
        if name == BASE or name in self.unchanged:
            return others[-1] if others and self.faults.base_gets_adapter else ""
        own = self.adapters[name]
        if self.faults.leaks:
            return next((each for each in others if each != own), own)
        return own

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        name = body["model"]
        if name not in {BASE, *self.unchanged, *self.adapters}:
            error = {"message": f"The model `{name}` does not exist."}
            return web.json_response({"error": error}, status=404)
        if body.get("temperature") == 99:
            error = {"message": f"temperature of {name} is too high"}
            return web.json_response({"error": error}, status=400)
        if len(body.get("prompt") or "") + (body.get("max_tokens") or 16) > self.longest:
            error = {"message": "the prompt and max_tokens exceed the maximum length"}
            return web.json_response({"error": error}, status=400)
        if "prompt_logprobs" in body and self.adapters.get(name) in self.faults.score_errors:
            return web.Response(status=500)
        if "prompt_logprobs" in body and self.adapters.get(name) in self.faults.fatal_scores:
            await self._die()
        with self._runs(name):
            if body.get("stream"):
                return await self._stream(request, body)
            await asyncio.sleep(self.interval * (body.get("max_tokens") or 16))
            answer = self._answer(body)
            if self.answer_bytes and "prompt_logprobs" not in body:
                answer["choices"][0]["logprobs"] = {"top_logprobs": "x" * self.answer_bytes}
            return web.json_response(answer)

    @contextmanager
    def _runs(self, name: str) -> Iterator[None]:
        self.running.append(name)
        if name != BASE:
            self._activate(name)
        began = time.monotonic()
        try:
            yield
            self.longest_run = max(self.longest_run, time.monotonic() - began)
        except (asyncio.CancelledError, ConnectionError):
            self.aborted.append(time.monotonic())
            raise
        finally:
            if name in self.running:
                self.running.remove(name)

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["model"]
        seed, scale = self._seed(name), self.faults.scale
        count = body.get("max_tokens") or 16
        if "messages" in body:
            ids = render(self._template(body), body["messages"])
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": seed}}
            cached = 0
        else:
            prompt = body["prompt"]
            ids = list(prompt.encode()) if isinstance(prompt, str) else prompt
            if "prompt_logprobs" in body:
                found = zip(ids[1:], scores(ids, seed, scale), strict=True)
                rows = [{str(token): {"logprob": value}} for token, value in found]
                choice = {"prompt_logprobs": [None, *rows], "text": seed}
                cached = 0
            else:
                cached = self._from_cache(body, ids)
                if cached and self.faults.stale_cache:
                    seed = "stale"
                choice = {"text": seed, **self._decoded(ids, count, seed, body)}
        usage = {
            "prompt_tokens": len(ids),
            "completion_tokens": count,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        return {"model": name, "choices": [{"index": 0, **choice}], "usage": usage}

    def _from_cache(self, body: dict[str, Any], ids: list[int]) -> int:
        key = (body["model"], str(body.get("cache_salt")), json.dumps(ids))
        cached = len(ids) // BLOCK * BLOCK if key in self._cached and self.faults.caches else 0
        self._cached.add(key)
        return cached

    def _decoded(
        self, ids: list[int], count: int, seed: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        digest = hashlib.blake2b(digest_size=16)
        for token in ids:
            digest.update(struct.pack("<I", token))
        tokens, values = [], []
        for _ in range(count):
            first = digest.digest()[0]
            allowed = body.get("allowed_token_ids") or range(first, first + CANDIDATES)
            value, token = max(
                (score(digest, each, seed, self.faults.scale), each) for each in allowed
            )
            tokens.append(token)
            values.append(value)
            digest.update(struct.pack("<I", token))
        return {"token_ids": tokens, "logprobs": {"token_logprobs": values}}

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        name, count = body["model"], body.get("max_tokens") or 16
        text = " " * self.event_bytes
        for number in range(count):
            await asyncio.sleep(self.interval)
            content = f"{self._seed(name)}:{number}{text} "
            delta = {"delta": {"content": content}} if "messages" in body else {"text": content}
            await self._send(response, {"model": name, "choices": [{"index": 0, **delta}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 7, "completion_tokens": count}
            await self._send(response, {"model": name, "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        text = json.dumps(event, separators=(",", ":"))
        await response.write(f"data: {text}\n\n".encode())


@asynccontextmanager
async def serving(socket: Path) -> AsyncIterator[FakeVllm]:
    """Serve during the block."""
    server = FakeVllm(socket)
    await server.start()
    try:
        yield server
    finally:
        if server._runner is not None:
            await server.kill()
