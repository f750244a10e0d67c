"""Compare the decode path of the server with its scores of prompts.

The scores that are compared with the reference are those of prompts, which the server processes as
a whole. An answer is generated token by token: other kernels read the keys and values of earlier
tokens from the cache. So the server generates tokens after prompts of the reference, and then
scores the same tokens in a prompt. Both computations differ only by rounding.

Rounding errors of the logits change a log-probability in proportion to 1 - p. The errors of the
reference, divided by 1 - p, therefore bound those of the generated tokens, which it does not have.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.contracts.reference import Reference
from finetune_verify.comparison import roundoff
from finetune_verify.errors import Mismatch
from finetune_verify.scores import ScoredRow
from finetune_verify.statistics import chance, rms
from finetune_verify.vllm_client import VllmClient

TOKENS = 16
"""Decoded tokens that are compared; the first token of an answer is not decoded."""
TOKENS_OF_PROMPT = 8
"""Maximum number of them after one prompt, so that there are at least two prompts."""
PROMPTS = 16
"""Maximum number of prompts: a stop token may end an answer early."""
NEGLIGIBLE = 1e-3
"""Distances up to this one, in nats, are never rejected."""

Pair = tuple[float, float]
"""Log-probabilities of a token: when it was generated, and in a prompt."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Comparison of generated tokens; distances in nats (rms)."""

    distance: float
    tolerance: float
    tokens: int


async def require_agreement(
    vllm: VllmClient,
    reference: Reference,
    rows: Sequence[ScoredRow],
    *,
    longest: int,
    dtypes: Sequence[str],
    paths: int,
) -> Decoded | None:
    """Generate tokens, score them again, and compare. Return None if nothing was decoded.

    rows: scores of the reference. longest: maximum length of the server. Raise Mismatch if the
    scores differ by more than rounding.
    """
    pairs = await _generate(vllm, reference, longest)
    if not pairs:
        return None
    found = Decoded(
        distance=rms([a - b for a, b in pairs]),
        tolerance=tolerance(pairs, rows, dtypes=dtypes, paths=paths),
        tokens=len(pairs),
    )
    # Not "distance > tolerance": a NaN must not pass.
    if not found.distance <= found.tolerance:
        raise Mismatch(
            "the server generates tokens with other log-probabilities than it computes for the "
            f"same tokens in a prompt: the root mean square difference is {found.distance:.4g} "
            f"nats over {found.tokens} tokens; the tolerance is {found.tolerance:.4g} nats"
        )
    return found


def tolerance(
    pairs: Sequence[Pair], rows: Sequence[ScoredRow], *, dtypes: Sequence[str], paths: int
) -> float:
    """Return the largest distance that rounding explains, in nats.

    As many tokens of the reference as were generated, those with the largest errors, replace the
    generated tokens: a few tokens may all be sensitive ones.
    """
    errors = sorted(
        abs(rounded - tuned) / _uncertainty(rounded, tuned)
        for row in rows
        for rounded, tuned in zip(row.rounded, row.tuned, strict=True)
    )
    allowed = chance([each for row in rows for each in row.rounding]) * rms(errors[-len(pairs) :])
    # Both computations round.
    factor = math.sqrt(2 * paths) * roundoff(dtypes)
    return max(NEGLIGIBLE, factor * allowed * rms([_uncertainty(*pair) for pair in pairs]))


async def _generate(vllm: VllmClient, reference: Reference, longest: int) -> list[Pair]:
    pairs: list[Pair] = []
    for row in reference.rows[:PROMPTS]:
        prompt = row.ids[: row.spans[0][0]]
        count = 1 + min(TOKENS_OF_PROMPT, TOKENS - len(pairs))
        # Scoring the answer generates one more token.
        if count == 1 or len(prompt) + count >= longest:
            continue
        answer = await vllm.generate(prompt, count)
        if len(answer) < 2:
            continue
        again = await vllm.logprobs([*prompt, *(token for token, _ in answer)])
        decoded = answer[1:]
        pairs += zip((score for _, score in decoded), again[-len(decoded) :], strict=True)
    return pairs


def _uncertainty(*logarithms: float) -> float:
    """Return 1 - p of the less likely one of log-probabilities."""
    return max(1e-7, -math.expm1(min(0.0, *logarithms)))
