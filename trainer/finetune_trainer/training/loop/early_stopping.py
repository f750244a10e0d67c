"""Losses on the held-out rows, the best of them, and early stopping."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Mean loss per held-out token after an optimizer step."""

    step: int
    loss: float


class EvaluationHistory:
    """All evaluations of a training, ordered by step."""

    def __init__(self, earlier: Iterable[Evaluation] = (), *, patience: int | None) -> None:
        """Continue from the evaluations of earlier attempts.

        patience: number of consecutive evaluations without a lower loss that ends the training;
        None disables early stopping.
        """
        self._evaluations = list(earlier)
        self._patience = patience

    def add(self, step: int, loss: float) -> None:
        """Add an evaluation; it replaces one of the same or a later step."""
        self._evaluations = [
            evaluation for evaluation in self._evaluations if evaluation.step < step
        ]
        self._evaluations.append(Evaluation(step=step, loss=loss))

    @property
    def last(self) -> Evaluation | None:
        """The latest evaluation."""
        return self._evaluations[-1] if self._evaluations else None

    @property
    def keeps_best(self) -> bool:
        """Whether the result is the adapter with the lowest loss, not that of the last step."""
        return self._patience is not None

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the lowest loss (the first of equals), if its adapter is kept."""
        if self._patience is None or not self._evaluations:
            return None
        return min(self._evaluations, key=lambda evaluation: (evaluation.loss, evaluation.step))

    @property
    def patience_exhausted(self) -> bool:
        """Whether training stops early."""
        lowest = self.best
        if lowest is None or self._patience is None:
            return False
        since = sum(evaluation.step > lowest.step for evaluation in self._evaluations)
        return since >= self._patience

    def as_facts(self) -> list[list[float]]:
        """Return [step, loss] pairs for a checkpoint's manifest."""
        return [[evaluation.step, evaluation.loss] for evaluation in self._evaluations]

    @classmethod
    def from_facts(
        cls, facts: Iterable[list[float]], *, patience: int | None
    ) -> "EvaluationHistory":
        """Return the history that ``as_facts`` wrote."""
        return cls(
            (Evaluation(step=int(step), loss=loss) for step, loss in facts), patience=patience
        )
