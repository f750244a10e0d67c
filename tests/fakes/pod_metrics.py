"""Fake metrics of pods: values that a test sets, and the targets for which they were requested."""

from collections.abc import Iterable

from finetune_operator.snapshot.scraping.scraper import Value
from finetune_operator.snapshot.scraping.targets import Target
from finetune_operator.types import Key


class FakePodMetrics:
    """Returns the same values for every job; ``targets`` are those of the last read of each job."""

    def __init__(self, *values: Value) -> None:
        self.values = values
        self.due = 0.0
        self.targets: dict[Key, tuple[Target, ...]] = {}

    def latest(self, key: Key, targets: Iterable[Target]) -> tuple[Value, ...]:
        self.targets[key] = tuple(targets)
        return self.values

    def verification_due(self, key: Key) -> float:
        return self.due

    def forget(self, key: Key) -> None:
        self.targets.pop(key, None)
