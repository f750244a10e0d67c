"""The losses on the held-out rows so far, and whether going on is still worth it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Mean loss of a held-out token after an optimizer step."""

    step: int
    loss: float


class Evaluations:
    """All evaluations of a training, in the order of their steps."""

    def __init__(self, known: Iterable[Evaluation] = (), *, patience: int | None) -> None:
        """``patience``: evaluations in a row without a lower loss that end the training."""
        self._known = list(known)
        self._patience = patience

    def add(self, step: int, loss: float) -> None:
        """Take an evaluation; one of the same step is replaced."""
        self._known = [each for each in self._known if each.step < step]
        self._known.append(Evaluation(step=step, loss=loss))

    @property
    def last(self) -> Evaluation | None:
        """The latest."""
        return self._known[-1] if self._known else None

    @property
    def keeps_best(self) -> bool:
        """Whether the result is the adapter of the lowest loss, not that of the last step."""
        return self._patience is not None

    @property
    def kept(self) -> Evaluation | None:
        """The lowest, the first of equals, where its adapter is the one to keep."""
        if self._patience is None or not self._known:
            return None
        return min(self._known, key=lambda each: (each.loss, each.step))

    @property
    def exhausted(self) -> bool:
        """Whether the patience is."""
        lowest = self.kept
        if lowest is None or self._patience is None:
            return False
        since = sum(each.step > lowest.step for each in self._known)
        return since >= self._patience

    def as_facts(self) -> list[list[float]]:
        """Return what a checkpoint's manifest keeps."""
        return [[each.step, each.loss] for each in self._known]

    @classmethod
    def from_facts(cls, facts: Iterable[list[float]], *, patience: int | None) -> "Evaluations":
        """Return what ``as_facts`` wrote."""
        return cls(
            (Evaluation(step=int(step), loss=loss) for step, loss in facts), patience=patience
        )
