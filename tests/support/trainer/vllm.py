"""Serve the vLLM routes that the verifier uses, with scores of transformers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass
class Served:
    """A served model, its tokenizer and template, and the received requests."""

    model: Any
    tokenizer: Any
    template: str | None = None
    max_model_len: int = 1024
    key: str | None = None
    starting: int = 0
    """The number of /health requests that are still rejected."""
    broken: int = 0
    """The number of score requests that are still answered with 500."""
    decoding: Callable[[Any], None] | None = None
    """Called with the model's logits of the next token while a token is decoded."""
    base: str | None = None
    """Name of the base of ``model``, which is a PEFT model; None if only one model is served."""
    mixes: bool = False
    """Whether requests for the base get the adapter while the adapter generates an answer."""
    generating: int = 0
    """The number of answers that the adapter generates now."""
    asked: list[str] = field(default_factory=list)

    def tokens(self, body: dict[str, Any]) -> list[int]:
        if "messages" not in body:
            return list(self.tokenizer(body["prompt"]).input_ids)
        text = self.tokenizer.apply_chat_template(
            body["messages"],
            tokenize=False,
            add_generation_prompt=body.get("add_generation_prompt", True),
            chat_template=self.template,
        )
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def prompt_logprobs(self, ids: list[int]) -> list[dict[str, Any] | None]:
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        scores = logits[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
        pairs = zip(ids[1:], scores, strict=True)
        return [None, *({str(token): {"logprob": score}} for token, score in pairs)]

    def generate(
        self, ids: list[int], count: int, allowed: list[int] | None = None
    ) -> dict[str, Any]:
        """Return a choice with greedily generated tokens, decoded with a cache."""
        tokens: list[int] = []
        scores: list[float] = []
        cache, following = None, ids
        while len(tokens) < count:
            with torch.no_grad():
                found = self.model(torch.tensor([following]), past_key_values=cache, use_cache=True)
            logits = found.logits[0, -1].float()
            if tokens and self.decoding is not None:
                self.decoding(logits)
            best = int(logits.argmax()) if allowed is None else allowed[0]
            tokens.append(best)
            scores.append(float(logits.log_softmax(-1)[best]))
            cache, following = found.past_key_values, [best]
        return {"token_ids": tokens, "logprobs": {"token_logprobs": scores}}

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if request.path == "/v1/models":
            adapter = {"id": "tiny", "parent": self.base}
            return web.json_response({"data": [{"id": self.base, "parent": None}, adapter]})
        if request.path == "/health":
            self.starting -= 1
            return web.Response(status=503 if self.starting >= 0 else 200)
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            # vLLM's validation errors contain the rejected input; so does this one.
            return web.json_response({"error": f"Refused: {await request.text()}"}, status=401)
        body = await request.json()
        if request.path == "/tokenize":
            tokens = self.tokens(body)
            found = {"tokens": tokens, "count": len(tokens), "max_model_len": self.max_model_len}
            return web.json_response(found)
        self.broken -= 1
        if self.broken >= 0:
            return web.Response(status=500)
        if len(body["prompt"]) + body["max_tokens"] > self.max_model_len:
            return web.json_response({"error": "too long"}, status=400)
        if body["model"] == self.base and not (self.mixes and self.generating):
            with self.model.disable_adapter():
                choice = self.choice(body)
        else:
            choice = self.choice(body)
        if body["max_tokens"] > 64:
            self.generating += 1
            try:
                await asyncio.sleep(5)
            finally:
                self.generating -= 1
        found = {"choices": [choice]}
        return web.json_response(found)

    def choice(self, body: dict[str, Any]) -> dict[str, Any]:
        if "prompt_logprobs" in body:
            return {"prompt_logprobs": self.prompt_logprobs(body["prompt"])}
        return self.generate(body["prompt"], body["max_tokens"], body.get("allowed_token_ids"))


@asynccontextmanager
async def serving(served: Served) -> AsyncIterator[str]:
    """Serve during the block; yield the base URL."""
    app = web.Application(client_max_size=2**26)
    for route in ("/health", "/v1/models"):
        app.router.add_get(route, served.answer)
    for route in ("/tokenize", "/v1/completions"):
        app.router.add_post(route, served.answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))
