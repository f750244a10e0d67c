"""Compare the scores of the reference's long row: positions after those of its other rows.

The score of each token is requested as that of the next token after all tokens before it, because
the scores of all tokens of a long prompt would need several GiB of GPU memory at once. The server
takes the prompt of the previous request from its prefix cache, as it does for its clients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.contracts.reference import Row
from finetune_verify.build import Build
from finetune_verify.comparing import few_tokens
from finetune_verify.comparing.agreement import Agreement, distance
from finetune_verify.comparing.comparison import tolerance
from finetune_verify.comparing.few_tokens import uncertainty
from finetune_verify.errors import Mismatch
from finetune_verify.scores import ScoredRow
from finetune_verify.vllm_client import VllmClient


@dataclass(frozen=True, kw_only=True)
class LongPrompts(Agreement):
    """Comparison of scores after long prompts."""

    longest: int
    """Tokens of the longest prompt."""


async def require_agreement(
    vllm: VllmClient, row: Row | None, rows: Sequence[ScoredRow], build: Build, *, longest: int
) -> LongPrompts | None:
    """Compare the scores.

    Return None without a long row, if the server is limited to less, or if the reference has too
    few tokens to tell rounding from a fault. rows: scores of its other rows. longest: maximum
    length of the server. Raise Mismatch if the scores differ by more than rounding.
    """
    kept = [at for at in row.positions if at < longest] if row is not None else []
    if row is None or not kept:
        return None
    scores, part = row.scores(build.base), slice(len(kept))
    tuned, rounded = scores.tuned[part], scores.rounded[part]
    allowed = few_tokens.tolerance(
        [uncertainty(*pair) for pair in zip(rounded, tuned, strict=True)],
        rows,
        dtypes=build.dtypes,
        paths=build.paths,
    )
    if allowed is None:
        return None
    served = [await vllm.next_logprob(row.ids[:at], row.ids[at]) for at in kept]
    recorded = [a - b for a, b in zip(rounded, tuned, strict=True)]
    compared = LongPrompts(
        distance=distance(list(zip(served, tuned, strict=True))),
        tolerance=max(allowed, tolerance(recorded, build.dtypes, build.paths)),
        tokens=len(kept),
        longest=kept[-1],
    )
    if not compared.is_within_tolerance:
        raise Mismatch(
            "the served model is not the tuned model after long prompts: the root mean square "
            f"distance to the reference is {compared.distance:.4g} nats over {compared.tokens} "
            f"tokens after {kept[0]} to {compared.longest} tokens; the tolerance is "
            f"{compared.tolerance:.4g} nats"
        )
    return compared
