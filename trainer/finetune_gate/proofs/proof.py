"""The proof that a loaded adapter is the trained one. Only with it does a name answer.

    1.  As for a job: tokens of the stored messages, scores of the reference, decoding, long
        prompts, and the base while the adapter decodes (``finetune_verify.verification``).
    2.  The scores once more, while a neighbour and the base decode in the same batches. They are
        compared with the reference, never with those of step 1.
    3.  An answer from the prefix cache.
    4.  The scores of the revision before, if it is still loaded. They must not agree with this
        reference; if they do, the proof says that scores cannot tell the two apart. Then only
        digests and the internal name exclude a mix-up.

A proof is for one start of the engine and one internal name, which no other adapter ever had.
"""

from dataclasses import dataclass
from typing import Any

from finetune_api.contracts.reference import Reference
from finetune_gate.adapters.copy import Base
from finetune_gate.engine import Engine, Place, ScoringClient
from finetune_gate.names import Proof
from finetune_gate.proofs import from_cache
from finetune_gate.proofs.company import Company, company
from finetune_verify import base_isolation, verification
from finetune_verify.build import Build
from finetune_verify.comparing.comparison import APART, compare
from finetune_verify.errors import BaseDiffers, Mismatch, Unavailable


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A loaded adapter. neighbour: another one, proved or not; None without one.

    predecessor: the one that the name answers with, until this one is proved.
    """

    internal: str
    reference: Reference
    template: str | None
    neighbour: str | None = None
    predecessor: str | None = None


def served(base: Base, dtype: str) -> Build:
    """Return what the verifier must know about the engine.

    dtype: of its arithmetic, which may be finer than that of the stored weights.
    """
    return Build(folders=(), base=base.kind, dtypes=(base.dtype, dtype), paths=APART)


async def prove(engine: Engine, place: Place, subject: Subject, build: Build, boot: str) -> Proof:
    """Return the proof. Raise Mismatch, or Unavailable if the engine stopped answering."""
    vllm = engine.client(subject.internal, template=subject.template)
    reference = subject.reference
    verdict = await verification.score(vllm, reference, build)
    _, longest = await vllm.tokenize({"prompt": ""})
    prompt = reference.rows[0].ids
    async with company(
        engine, place, prompt, neighbour=subject.neighbour, longest=longest
    ) as others:
        together = _Together(engine, vllm, others)
        rows = await verification.scored(together, reference, build, longest)
    result = compare(rows, dtypes=build.dtypes, paths=build.paths)
    if result.outcome == "Mismatch":
        raise Mismatch(
            "while other models decode, the adapter's answers are not those of the tuned model: "
            f"the root mean square distance to the reference is {result.distance:.4g} nats over "
            f"{result.tokens} tokens; the tolerance is {result.tolerance:.4g} nats"
        )
    apart = await _is_apart(engine, subject, build, longest)
    cached = await from_cache.require_agreement(vllm, reference, rows, build, longest)
    if engine.boot() != boot:
        raise Unavailable("vLLM restarted during the proof")
    assert verdict.outcome != "Skipped"
    detected = [
        fault for fault in (verdict.smallest_fault, result.smallest_fault) if fault is not None
    ]
    return Proof(
        boot=boot,
        internal=subject.internal,
        # The weaker of both comparisons counts, here and below.
        outcome="Verified" if {verdict.outcome, result.outcome} == {"Verified"} else "Inconclusive",
        message=f"{verdict.message}; {_together(others, result.distance)}; {_cached(cached)}"
        f"{apart}",
        distance=max(verdict.distance or 0.0, result.distance),
        tolerance=result.tolerance,
        smallest_fault=max(detected) if len(detected) == 2 else None,
        base_agrees=verdict.base_agrees,
    )


async def self_test(engine: Engine, subject: Subject, build: Build) -> str | None:
    """Compare the base alone and while an adapter decodes, before any name answers.

    Return the numbers; None if this adapter cannot show it. Raise BaseDiffers.
    """
    vllm = engine.client(subject.internal, template=subject.template)
    try:
        _, longest = await vllm.tokenize({"prompt": ""})
        rows = await verification.scored(vllm, subject.reference, build, longest)
        isolated = await base_isolation.require_agreement(
            vllm, subject.reference, rows, build, longest=longest
        )
    except BaseDiffers:
        raise
    except Mismatch:
        # The adapter itself is faulty, which its own proof reports.
        return None
    if isolated is None:
        return None
    return (
        f"the base agrees while an adapter decodes: distance {isolated.distance:.4g} nats over "
        f"{isolated.tokens} tokens; tolerance {isolated.tolerance:.4g} nats"
    )


class _Together(ScoringClient):
    """Computes scores only while the others decode."""

    def __init__(self, engine: Engine, vllm: ScoringClient, others: Company) -> None:
        super().__init__(engine, vllm.model, template=None, place=vllm.place)
        self._others = others

    async def _request(self, method: str, route: str, **options: Any) -> Any:
        request = super()._request
        return await self._others.during(lambda: request(method, route, **options))


async def _is_apart(engine: Engine, subject: Subject, build: Build, longest: int) -> str:
    """Return whether the scores tell the adapter from its predecessor, for the message."""
    if subject.predecessor is None:
        return ""
    vllm = engine.client(subject.predecessor)
    rows = await verification.scored(vllm, subject.reference, build, longest)
    is_apart = compare(rows, dtypes=build.dtypes, paths=build.paths).outcome == "Mismatch"
    return f"; its scores {'are not' if is_apart else 'could be'} those of the revision before"


def _together(others: Company, distance: float) -> str:
    names = "a neighbour and the base decode" if others.neighbours else "the base decodes"
    return f"while {names} in the same batches, the distance is {distance:.4g} nats"


def _cached(cached: from_cache.Cached | None) -> str:
    if cached is None:
        return "answers from the prefix cache were not compared"
    return f"an answer from {cached.cached} cached tokens agrees ({cached})"
