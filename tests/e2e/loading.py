"""Constant load on the endpoint of a job."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.local_cluster import pods
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.tuning import Tuning

PERIOD, LIMIT, TOKENS = 1.0, 60.0, 100
END_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of the requests, as described in ``scripts/load.py``. Times in seconds."""

    requests: int
    failed: list[tuple[float, str]]
    streams: int
    broken: list[tuple[float, str]]
    gap: tuple[float, float]

    @property
    def gap_seconds(self) -> float:
        """The longest time without an answer."""
        return self.gap[1] - self.gap[0]

    def __str__(self) -> str:
        return (
            f"{self.requests} requests and {self.streams} streams, {len(self.failed)} refused, "
            f"{len(self.broken)} broken off; the longest time without an answer was "
            f"{self.gap_seconds:.1f} s (one request every {PERIOD} s)"
        )


@dataclass(frozen=True, kw_only=True)
class Load:
    """Load that runs until ``end``."""

    tuning: Tuning
    pod: str

    def end(self) -> Outcome:
        """Stop the load; return its outcome."""
        cluster, namespace = self.tuning.cluster, self.tuning.namespace
        cluster.kubectl.execute(self.pod, namespace, ["touch", "/tmp/stop"])
        return Outcome(**pods.result(cluster, namespace, self.pod, seconds=END_SECONDS))


@contextmanager
def under_load(tuning: Tuning, *, key: str = "") -> Iterator[Load]:
    """Send requests during the block, or until ``Load.end``."""
    cluster, namespace = tuning.cluster, tuning.namespace
    task = Task(
        script="load.py",
        image=cluster.operator_image(),
        given={
            "url": tuning.status()["endpoint"],
            "model": tuning.status()["serving"]["model"],
            "key": key,
            "period": PERIOD,
            "limit": LIMIT,
            "tokens": TOKENS,
        },
        ready="/tmp/answered",
    )
    with pods.started(cluster, namespace, task) as name:
        pods.wait_until_ready(cluster, namespace, name)
        yield Load(tuning=tuning, pod=name)
