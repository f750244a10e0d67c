"""Results of compared trainings: trainer and plain script, packed and padded."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.training import runs
from bench.training.runs import Run

SAVE_STEPS = 5
SAME_LOSS = 0.001
"""Maximum relative difference between the losses of a first step; more means that the work differs.
Later losses differ by the libraries' rounding of the adapter."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Rounds of our trainer and a plain script on the same tokens."""

    ours: Sequence[Run]
    plain: Sequence[Run]
    checkpoint_bytes: int = 0

    def seconds(self) -> tuple[float, float]:
        """Return the seconds per step of both, without steps that follow a checkpoint."""
        steps = [step for step in self._ours if step not in self._saved]
        return (
            statistics.mean(self._ours[step] for step in steps),
            statistics.mean(self._plain[step] for step in steps),
        )

    def overhead(self) -> float:
        """Return the relative overhead: the median over the steps of all rounds.

        Each step is compared with the same step of the plain script, which ran just before or
        after it.
        """
        saved = self._saved
        ratios = [
            ours / plain
            for both in zip(self.ours, self.plain, strict=True)
            for step, (ours, plain) in _steps(both).items()
            if step not in saved
        ]
        return statistics.median(ratios) - 1

    def rounds(self) -> list[float]:
        """Return the relative overhead of each round."""
        return [
            Pair(ours=[ours], plain=[plain]).overhead()
            for ours, plain in zip(self.ours, self.plain, strict=True)
        ]

    def stall(self) -> float:
        """Return the seconds by which a checkpoint delays the training."""
        ours, plain = self.seconds()
        return statistics.median(
            self._ours[step] - self._plain[step] * ours / plain for step in self._saved
        )

    def refuse_other_work(self) -> None:
        """Raise RuntimeError if the losses of the first steps differ."""
        both = list(zip(self.ours[0].losses, self.plain[0].losses, strict=True))
        for step, (ours, plain) in enumerate(both[: runs.WARM_UP], 1):
            if abs(ours / plain - 1) > SAME_LOSS:
                raise RuntimeError(
                    "our trainer and the plain script do different work: their losses at step "
                    f"{step} are {ours} and {plain}"
                )

    @property
    def _ours(self) -> dict[int, float]:
        return _by_step(self.ours)

    @property
    def _plain(self) -> dict[int, float]:
        return _by_step(self.plain)

    @property
    def _saved(self) -> list[int]:
        return [step for step in self._ours if (step - 1) % SAVE_STEPS == 0]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A training on rows of all lengths, packed or padded, in trained tokens per second."""

    tokens_per_second: float
    steps_per_epoch: int


def _steps(rounds: Sequence[Run]) -> dict[int, tuple[float, ...]]:
    """Return the seconds of each step in each of the runs."""
    intervals = zip(*(run.intervals() for run in rounds), strict=True)
    return dict(enumerate(intervals, runs.WARM_UP + 1))


def _by_step(rounds: Sequence[Run]) -> dict[int, float]:
    """Return the seconds of each step, as the median of all rounds."""
    return {step: statistics.median(seconds) for step, seconds in _steps(rounds).items()}
