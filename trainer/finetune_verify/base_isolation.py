"""Compare the scores of the base model while the adapter decodes with its scores at other times.

With ``serving.mode: adapter``, one server answers for the adapter and for its base, even in one
step. A server that mixes them up gives the base the scores of the adapter. So the base scores some
tokens alone, and again while the adapter generates an answer; both computations differ only by
rounding. The tokens are those whose scores the adapter changes most.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from finetune_api.contracts.reference import Reference, Row
from finetune_verify import decoding
from finetune_verify.build import Build
from finetune_verify.comparing.agreement import Agreement, distance
from finetune_verify.errors import BaseDiffers
from finetune_verify.scores import ScoredRow
from finetune_verify.vllm_client import VllmClient

TOKENS = 8
"""Scored tokens. Each costs two requests of one token."""
DECODED = 128
"""Tokens that the adapter generates meanwhile, at most; it starts again if that is too few."""
HEAD_START = 0.02
"""Seconds between the request for an answer and the next request."""


async def require_agreement(
    vllm: VllmClient,
    reference: Reference,
    rows: Sequence[ScoredRow],
    build: Build,
    *,
    longest: int,
) -> Agreement | None:
    """Score tokens with the base alone and while the adapter decodes, and compare.

    Return None if the server names no base of the adapter, or if the reference has too few tokens
    to tell rounding from a fault. rows: scores of the reference. longest: maximum length of the
    server. Raise BaseDiffers if the scores differ by more than rounding.
    """
    name = await vllm.base_name()
    tokens = _most_changed(reference.rows, longest)
    if name is None or not tokens:
        return None
    base = vllm.of(name)
    alone = [await base.next_logprob(row.ids[:at], row.ids[at]) for row, at in tokens]
    meanwhile, salt = [], secrets.token_hex(8)
    # The time of concurrent answers must not count twice.
    async with _decoding(vllm.of(vllm.model), tokens[0][0], longest) as ensure:
        for row, at in tokens:
            await ensure()
            # From the cache, the server would take the prefix that it computed before.
            score = await base.next_logprob(row.ids[:at], row.ids[at], cache_salt=salt)
            meanwhile.append(score)
    vllm.answering += base.answering
    pairs = list(zip(meanwhile, alone, strict=True))
    allowed = decoding.tolerance(pairs, rows, dtypes=build.dtypes, paths=build.paths)
    if allowed is None:
        return None
    isolated = Agreement(distance=distance(pairs), tolerance=allowed, tokens=len(pairs))
    if not isolated.is_within_tolerance:
        raise BaseDiffers(
            f"while the adapter decodes, the server answers requests for its base {name} "
            "differently than at other times, as if the adapter were applied to them: the root "
            f"mean square difference is {isolated.distance:.4g} nats over {isolated.tokens} "
            f"tokens; the tolerance is {isolated.tolerance:.4g} nats. Set serving.mode: merged"
        )
    return isolated


def _most_changed(rows: Sequence[Row], longest: int) -> list[tuple[Row, int]]:
    """Return the tokens, as a row and a position, whose scores the adapter changes most."""
    changes = [
        (abs(tuned - base), number, at)
        for number, row in enumerate(rows)
        for at, tuned, base in zip(
            row.positions, row.original.tuned, row.original.base, strict=True
        )
        if at < longest
    ]
    return [(rows[number], at) for _, number, at in sorted(changes, reverse=True)[:TOKENS]]


@asynccontextmanager
async def _decoding(
    vllm: VllmClient, row: Row, longest: int
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Yield a function that starts an answer of the adapter unless one is being generated."""
    prompt = row.ids[: min(row.spans[0][0], longest - 2)]
    count = min(DECODED, longest - len(prompt) - 1)
    running: asyncio.Task[object] | None = None

    async def ensure() -> None:
        nonlocal running
        if running is not None and running.done():
            await running
            running = None
        if running is None:
            running = asyncio.create_task(vllm.generate(prompt, count))
            await asyncio.sleep(HEAD_START)

    try:
        yield ensure
    finally:
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
