"""Compare the held-out loss of the tuned model with that of its base, on the same rows.

Losses are means over tokens, so a row counts in proportion to its answer tokens. The standard error
is that of the paired difference, with rows as sampling units (ratio estimator; Cochran, Sampling
Techniques, 1977, 6.4):

    D = Σ d_r / Σ n_r        d_r = Σ over the row's tokens of (tuned loss - base loss)
    SE² = R / (R - 1) · Σ (d_r - D·n_r)² / (Σ n_r)²
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.contracts.reference import BaseKind, Reference
from finetune_api.v1alpha1.evaluation import EvaluatedBuild, EvaluatedDataset, HeldOutLosses


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean difference of the loss per token, and its standard error (infinite below two rows)."""

    mean: float
    standard_error: float


def evaluate(reference: Reference) -> HeldOutLosses:
    """Return the losses of both builds that a merge can produce, and that of the 16-bit base."""
    return HeldOutLosses(
        rows=len(reference.rows),
        tokens=reference.tokens,
        base_loss=_text(_loss([row.original.base for row in reference.rows])),
        rows_digest=_digest(reference),
        dequantized=_build(reference, "dequantized"),
        original=_build(reference, "original"),
        datasets=_datasets(reference) or None,
    )


def _datasets(reference: Reference) -> list[EvaluatedDataset]:
    """Return the losses on the rows of each of several datasets."""
    names = dict.fromkeys(row.dataset for row in reference.rows if row.dataset is not None)
    datasets = []
    for name in sorted(names):
        rows = [row for row in reference.rows if row.dataset == name]
        datasets.append(
            EvaluatedDataset(
                name=name,
                tokens=sum(len(row.original.tuned) for row in rows),
                base_loss=_text(_loss([row.original.base for row in rows])),
                loss=_text(_loss([row.dequantized.tuned for row in rows])),
            )
        )
    return datasets


def difference(tuned: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> Difference:
    """Compare the log-probabilities of two models for the same tokens, given by row."""
    rows = [
        (math.fsum(b - t for t, b in zip(ours, theirs, strict=True)), len(ours))
        for ours, theirs in zip(tuned, base, strict=True)
    ]
    tokens = sum(count for _, count in rows)
    mean = math.fsum(total for total, _ in rows) / tokens
    if len(rows) < 2:
        return Difference(mean=mean, standard_error=math.inf)
    squares = math.fsum((total - mean * count) ** 2 for total, count in rows)
    error = math.sqrt(len(rows) / (len(rows) - 1) * squares) / tokens
    return Difference(mean=mean, standard_error=error)


def _build(reference: Reference, kind: BaseKind) -> EvaluatedBuild:
    tuned = [row.scores(kind).tuned for row in reference.rows]
    compared = difference(tuned, [row.original.base for row in reference.rows])
    finite = math.isfinite(compared.standard_error)
    return EvaluatedBuild(
        loss=_text(_loss(tuned)),
        difference=_text(compared.mean),
        standard_error=_text(compared.standard_error) if finite else None,
    )


def _digest(reference: Reference) -> str:
    """Return a digest that is equal for references of the same tokens of the same rows."""
    rows = json.dumps([[row.ids, row.spans] for row in reference.rows])
    return "sha256:" + hashlib.sha256(rows.encode()).hexdigest()


def _loss(rows: Sequence[Sequence[float]]) -> float:
    tokens = sum(len(row) for row in rows)
    return -math.fsum(score for row in rows for score in row) / tokens


def _text(value: float) -> str:
    return f"{value:.5f}"
