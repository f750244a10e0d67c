"""Compare the decode path of the server with its scores of prompts.

The scores that are compared with the reference are those of prompts, which the server processes as
a whole. An answer is generated token by token: other kernels read the keys and values of earlier
tokens from the cache. So the server generates tokens after prompts of the reference, and then
scores the same tokens in a prompt. Both computations differ only by rounding.

``few_tokens`` bounds the rounding of the generated tokens, which the reference does not have.
"""

from collections.abc import Sequence

from finetune_api.contracts.reference import Reference
from finetune_verify.comparing import few_tokens
from finetune_verify.comparing.agreement import Agreement, distance
from finetune_verify.comparing.few_tokens import uncertainty
from finetune_verify.errors import Mismatch
from finetune_verify.scores import ScoredRow
from finetune_verify.vllm_client import VllmClient

TOKENS = 16
"""Decoded tokens that are compared; the first token of an answer is not decoded."""
TOKENS_OF_PROMPT = 8
"""Maximum number of them after one prompt, so that there are at least two prompts."""
PROMPTS = 16
"""Maximum number of prompts: a stop token may end an answer early."""
UNTRAINED = 2.0
"""Factor for generated tokens that training did not see."""
NEGLIGIBLE = 1e-3
"""Distances up to this one, in nats, are never rejected."""

Pair = tuple[float, float]
"""Log-probabilities of a token: when it was generated, and in a prompt."""


async def require_agreement(
    vllm: VllmClient,
    reference: Reference,
    rows: Sequence[ScoredRow],
    *,
    longest: int,
    dtypes: Sequence[str],
    paths: int,
) -> Agreement | None:
    """Generate tokens, score them again, and compare.

    Return None if nothing was decoded, or if the reference has too few tokens to tell rounding from
    a fault.

    rows: scores of the reference. longest: maximum length of the server. Raise Mismatch if the
    scores differ by more than rounding.
    """
    pairs = await _generate(vllm, reference, longest)
    allowed = tolerance(pairs, rows, dtypes=dtypes, paths=paths)
    if not pairs or allowed is None:
        return None
    decoded = Agreement(distance=distance(pairs), tolerance=allowed, tokens=len(pairs))
    if not decoded.is_within_tolerance:
        raise Mismatch(
            "the server generates tokens with other log-probabilities than it computes for the "
            f"same tokens in a prompt: the root mean square difference is {decoded.distance:.4g} "
            f"nats over {decoded.tokens} tokens; the tolerance is {decoded.tolerance:.4g} nats"
        )
    return decoded


def tolerance(
    pairs: Sequence[Pair], rows: Sequence[ScoredRow], *, dtypes: Sequence[str], paths: int
) -> float | None:
    """Return the largest distance that rounding explains, in nats; None if too little is recorded.

    Both computations round. Tokens that the model generates beyond the trained answers may be more
    sensitive than those of the reference.
    """
    allowed = few_tokens.tolerance(
        [uncertainty(*pair) for pair in pairs], rows, dtypes=dtypes, paths=2 * paths
    )
    return None if allowed is None else max(NEGLIGIBLE, UNTRAINED * allowed)


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
