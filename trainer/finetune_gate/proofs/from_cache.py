"""Compare what the adapter generates from the prefix cache with scores that never read the cache.

An engine that keeps the cached prompt of one adapter under the name of another generates from stale
keys and values, and scores of prompts cannot show it: vLLM computes them without the cache. So an
answer is generated twice after the same prompt, the second time from the cache, and the log-
probabilities of its tokens are compared with those of the same tokens in a prompt.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice

from finetune_api.contracts.reference import Reference
from finetune_gate.engine import ScoringClient
from finetune_verify import decoding
from finetune_verify.build import Build
from finetune_verify.comparing.agreement import Agreement, distance
from finetune_verify.errors import Mismatch
from finetune_verify.scores import ScoredRow

PROMPT = 257
"""Tokens of the prompt: two whole blocks of the largest block size (128, on a CPU) and one more."""
TOKENS = 16
"""Tokens of the answer. The first is not decoded."""


@dataclass(frozen=True, kw_only=True)
class Cached(Agreement):
    """Comparison of an answer from the cache."""

    cached: int
    """Tokens of the prompt that came from the cache."""


async def require_agreement(
    vllm: ScoringClient, reference: Reference, rows: Sequence[ScoredRow], build: Build, longest: int
) -> Cached | None:
    """Generate from the cache, and compare.

    Return None if the server is limited to shorter prompts, or if the reference has too few tokens
    to tell rounding from a fault. Raise Mismatch if the server used no cache, or if the scores
    differ by more than rounding.
    """
    if longest <= PROMPT + TOKENS:
        return None
    # One that no request has used: the first answer fills the cache.
    salt = secrets.token_hex(8)
    tokens = chain.from_iterable(row.ids for row in reference.rows)
    prompt = list(islice(cycle(tokens), PROMPT))
    await vllm.generate(prompt, TOKENS, cache_salt=salt)
    answer = await vllm.generate(prompt, TOKENS, cache_salt=salt)
    if not (cached := vllm.cached):
        raise Mismatch(
            f"the second request with the same {PROMPT} tokens used nothing from the prefix cache, "
            "so its answers cannot be proved: vLLM needs --enable-prefix-caching and "
            "--enable-prompt-tokens-details"
        )
    again = await vllm.logprobs([*prompt, *(token for token, _ in answer)])
    scores = again[-len(answer) :]
    pairs = [(generated, score) for (_, generated), score in zip(answer, scores, strict=True)]
    allowed = decoding.tolerance(pairs, rows, dtypes=build.dtypes, paths=build.paths)
    if allowed is None:
        return None
    agreement = Cached(
        distance=distance(pairs), tolerance=allowed, tokens=len(pairs), cached=cached
    )
    if not agreement.is_within_tolerance:
        raise Mismatch(
            "from the prefix cache, the server generates tokens with other log-probabilities than "
            f"it computes for them in a prompt: the distance is {agreement.distance:.4g} nats over "
            f"{agreement.tokens} tokens; the tolerance is {agreement.tolerance:.4g} nats"
        )
    return agreement
