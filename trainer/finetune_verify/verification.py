"""The verification itself: the volume's digests, the server's tokens, the server's scores."""

from dataclasses import dataclass
from typing import Any, Literal

from finetune_api.contracts.reference import Reference, Row
from finetune_verify.build import Build
from finetune_verify.endpoint import Endpoint
from finetune_verify.errors import Mismatch
from finetune_verify.judgement import judge

Outcome = Literal["Verified", "Inconclusive", "Skipped"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found, in nats where there are numbers."""

    outcome: Outcome
    message: str
    distance: float | None = None
    tolerance: float | None = None
    tokens: int = 0


SKIPPED = Verdict(
    outcome="Skipped",
    message="the training left no reference: only the digests of the files were checked",
)


async def score(endpoint: Endpoint, reference: Reference, build: Build) -> Verdict:
    """Compare what the server tokenizes and scores with the reference.

    Raises Mismatch where it is another model, and Unavailable where the server went away.
    """
    longest = await _tokens_agree(endpoint, reference)
    served, tuned, base, rounding = list[float](), list[float](), list[float](), list[float]()
    for row in reference.rows:
        # The server gives one more token than it is asked about.
        ids = row.ids[: longest - 1]
        kept = [at for at in row.positions if at < len(ids)]
        if not kept:
            continue
        found = await endpoint.logprobs(ids)
        scores = row.scores(build.base)
        served += [found[at - 1] for at in kept]
        tuned += scores.tuned[: len(kept)]
        base += scores.base[: len(kept)]
        rounding += [
            rounded - exact
            for rounded, exact in zip(
                scores.rounded[: len(kept)], scores.tuned[: len(kept)], strict=True
            )
        ]
    if not served:
        raise Mismatch(f"the server takes {longest} tokens at most, too few to score anything")
    found_out = judge(
        served=served,
        tuned=tuned,
        base=base,
        rounding=rounding,
        dtypes=build.dtypes,
        paths=build.paths,
    )
    numbers = (
        f"{found_out.distance:.4g} nats rms over {found_out.tokens} tokens, tolerance "
        f"{found_out.tolerance:.4g}; tuning itself moved them by {found_out.effect:.4g}"
    )
    if found_out.outcome == "Mismatch":
        raise Mismatch(f"what is served is not the tuned model: it is {numbers} away from it")
    if found_out.outcome == "Inconclusive":
        message = (
            f"the digests agree, and so do the scores, but tuned model and base are too close to "
            f"be told apart by them ({numbers})"
        )
    else:
        message = f"the tuned model is served ({numbers})"
    if all(row.prompt_ids is None for row in reference.rows):
        message += "; no row could be sent as a request, so that tokens were not compared"
    return Verdict(
        outcome=found_out.outcome,
        message=message,
        distance=found_out.distance,
        tolerance=found_out.tolerance,
        tokens=found_out.tokens,
    )


async def _tokens_agree(endpoint: Endpoint, reference: Reference) -> int:
    """Compare tokenization; return the longest sequence that the server takes."""
    _, longest = await endpoint.tokenize({"prompt": ""})
    for number, row in enumerate(reference.rows, 1):
        if row.prompt_ids is None:
            continue
        found, longest = await endpoint.tokenize(_request(row))
        if found != row.prompt_ids:
            at = next(
                (i for i, (a, b) in enumerate(zip(found, row.prompt_ids, strict=False)) if a != b),
                min(len(found), len(row.prompt_ids)),
            )
            what = "messages" if row.messages is not None else "text"
            raise Mismatch(
                f"the {what} of reference row {number} become other tokens than in training, from "
                f"token {at + 1} on ({len(found)} tokens instead of {len(row.prompt_ids)}): "
                "tokenizer or chat template differ"
            )
    return longest


def _request(row: Row) -> dict[str, Any]:
    if row.messages is not None:
        return {"messages": row.messages, "add_generation_prompt": True}
    return {"prompt": row.text, "add_special_tokens": True}
