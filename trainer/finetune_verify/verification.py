"""Compare tokenization, scores and decoding of the server with the reference."""

from dataclasses import dataclass
from typing import Any, Literal

from finetune_api.contracts.reference import Reference, Row
from finetune_verify import base_isolation, decoding, long_prompts
from finetune_verify.build import Build
from finetune_verify.comparing.agreement import Agreement
from finetune_verify.comparing.comparison import APART, CLEAR, Comparison, compare
from finetune_verify.errors import Mismatch
from finetune_verify.scores import ScoredRow
from finetune_verify.vllm_client import VllmClient

Outcome = Literal["Verified", "Inconclusive", "Skipped"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome of a verification. Distances are in nats; None if nothing was scored."""

    outcome: Outcome
    message: str
    distance: float | None = None
    tolerance: float | None = None
    tokens: int = 0
    smallest_fault: float | None = None
    """Smallest share of the effect of tuning whose absence would be detected, if any."""
    base_agrees: bool = False
    """Whether the base of a server with adapters was compared, too."""


SKIPPED = Verdict(
    outcome="Skipped",
    message="training recorded no log-probabilities to compare; only file digests were verified",
)


async def score(vllm: VllmClient, reference: Reference, build: Build) -> Verdict:
    """Compare the tokens and log-probabilities of the server with the reference.

    Raise Mismatch if the model is another one, and Unavailable if the server stopped answering.
    """
    longest = await compare_tokens(vllm, reference)
    rows = await scored(vllm, reference, build, longest)
    if not rows:
        raise Mismatch(
            f"the server accepts at most {longest} tokens, but in every reference row, the tokens "
            "with recorded log-probabilities come later: raise serving.maxModelLen"
        )
    result = compare(rows, dtypes=build.dtypes, paths=build.paths)
    if result.outcome == "Mismatch":
        raise Mismatch(f"the served model is not the tuned model: {_difference(result)}")
    decoded = await decoding.require_agreement(
        vllm, reference, rows, longest=longest, dtypes=build.dtypes, paths=build.paths
    )
    long = await long_prompts.require_agreement(
        vllm, reference.long_row, rows, build, longest=longest
    )
    numbers = "; ".join(
        (_numbers(result), _smallest_fault(result), _long_prompts(long), _decoded(decoded))
    )
    isolated = None
    if build.paths == APART:
        isolated = await base_isolation.require_agreement(
            vllm, reference, rows, build, longest=longest
        )
        numbers += f"; {_isolated(isolated)}"
    if result.outcome == "Inconclusive":
        message = (
            "the served model matches the record of the training, but rounding could hide the loss "
            f"of {CLEAR:g} of the effect of tuning in these log-probabilities ({numbers})"
        )
    else:
        message = f"the served model is the tuned model ({numbers})"
    if all(row.prompt_ids is None for row in reference.rows):
        message += "; tokenization was not compared: no reference row can be sent as a request"
    return Verdict(
        outcome=result.outcome,
        message=message,
        distance=result.distance,
        tolerance=result.tolerance,
        tokens=result.tokens,
        smallest_fault=result.smallest_fault,
        base_agrees=isolated is not None,
    )


async def scored(
    vllm: VllmClient, reference: Reference, build: Build, longest: int
) -> list[ScoredRow]:
    """Return the scores of all tokens that the server accepts, from the server and the record."""
    rows = []
    for row in reference.rows:
        # The request generates one token, which counts towards the maximum length.
        ids = row.ids[: longest - 1]
        kept = [at for at in row.positions if at < len(ids)]
        if not kept:
            continue
        logprobs = await vllm.logprobs(ids)
        scores, part = row.scores(build.base), slice(len(kept))
        rows.append(
            ScoredRow(
                served=[logprobs[at - 1] for at in kept],
                tuned=scores.tuned[part],
                base=scores.base[part],
                rounded=scores.rounded[part],
            )
        )
    return rows


def _numbers(result: Comparison) -> str:
    return (
        f"the root mean square distance to the reference is {result.distance:.4g} nats over "
        f"{result.tokens} tokens; the tolerance is {result.tolerance:.4g} nats; the effect of "
        f"tuning is {result.effect:.4g} nats"
    )


def _difference(result: Comparison) -> str:
    """Return how a model differs from the reference."""
    error = result.effect_error
    if error is None:
        return _numbers(result)
    return (
        f"it has {1 + error.error:.3g} of the effect of tuning, as with an adapter at a wrong "
        f"scale; rounding explains {1 + error.lowest:.3g} to {1 + error.highest:.3g} "
        f"({_numbers(result)})"
    )


def _smallest_fault(result: Comparison) -> str:
    if result.smallest_fault is None:
        return "the comparison would not detect the base model"
    return (
        "the comparison would detect a model that lacks "
        f"{100 * result.smallest_fault:.2g} % of this effect"
    )


def _long_prompts(compared: long_prompts.LongPrompts | None) -> str:
    if compared is None:
        return "long prompts were not compared"
    return (
        f"the log-probabilities of {compared.tokens} tokens after prompts of up to "
        f"{compared.longest} tokens agree ({compared})"
    )


def _decoded(decoded: Agreement | None) -> str:
    if decoded is None:
        return "decoding was not compared: prompts are too long, or answers too short or too few"
    return (
        f"the log-probabilities of {decoded.tokens} generated tokens agree with those of the same "
        f"tokens in a prompt ({decoded})"
    )


def _isolated(isolated: Agreement | None) -> str:
    if isolated is None:
        return "the base model was not compared while the adapter decodes"
    return (
        f"the log-probabilities of {isolated.tokens} tokens of the base model agree while the "
        f"adapter decodes ({isolated})"
    )


async def compare_tokens(vllm: VllmClient, reference: Reference) -> int:
    """Compare tokenization; return the maximum sequence length of the server."""
    _, longest = await vllm.tokenize({"prompt": ""})
    for number, row in enumerate(reference.rows, 1):
        if row.prompt_ids is None:
            continue
        ids, longest = await vllm.tokenize(_request(row))
        if ids != row.prompt_ids:
            at = next(
                (i for i, (a, b) in enumerate(zip(ids, row.prompt_ids, strict=False)) if a != b),
                min(len(ids), len(row.prompt_ids)),
            )
            what = "conversation" if row.messages is not None else "text"
            raise Mismatch(
                f"vLLM tokenizes the {what} of reference row {number} differently than training "
                f"did, starting at token {at + 1} ({len(ids)} tokens instead of "
                f"{len(row.prompt_ids)}): the tokenizer or the chat template differs"
            )
    return longest


def _request(row: Row) -> dict[str, Any]:
    if row.messages is not None:
        return {"messages": row.messages, "add_generation_prompt": True}
    return {"prompt": row.text, "add_special_tokens": True}
