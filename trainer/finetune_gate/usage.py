"""Requests, tokens and latencies of each name that answers.

Only names of the wanted set are counted, and forgotten with it: a caller who sends many unknown
names makes no series.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram

from finetune_gate.events import Tokens

Outcome = Literal["completed", "rejected", "failed", "disconnected", "busy"]
OUTCOMES: tuple[Outcome, ...] = ("completed", "rejected", "failed", "disconnected", "busy")
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass
class Total:
    """Sums of one name since the gate started."""

    requests: int = 0
    prompt: int = 0
    completion: int = 0


class Usage:
    """The counters of all names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._totals: dict[str, Total] = {}
        self._requests = Counter(
            "finetune_gate_requests",
            "Requests that ended, by model and outcome.",
            ["model", "outcome"],
            registry=registry,
        )
        self._tokens = Counter(
            "finetune_gate_tokens",
            "Tokens of prompts and completions, by model.",
            ["model", "kind"],
            registry=registry,
        )
        self._first = Histogram(
            "finetune_gate_first_token_seconds",
            "Time from a request to the first event of its stream, by model.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._seconds = Histogram(
            "finetune_gate_request_seconds",
            "Time from a request to the end of its response, by model.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )

    def first_token(self, name: str, seconds: float) -> None:
        """Record the first event of a stream."""
        self._first.labels(name).observe(seconds)

    def ended(self, name: str, outcome: Outcome, tokens: Tokens, seconds: float) -> None:
        """Record the end of a request."""
        total = self._totals.setdefault(name, Total())
        total.requests += 1
        total.prompt += tokens.prompt
        total.completion += tokens.completion
        self._requests.labels(name, outcome).inc()
        self._tokens.labels(name, "prompt").inc(tokens.prompt)
        self._tokens.labels(name, "completion").inc(tokens.completion)
        self._seconds.labels(name).observe(seconds)

    def of(self, name: str) -> Total:
        """Return the sums of a name."""
        return self._totals.get(name, Total())

    def keep(self, names: Collection[str]) -> None:
        """Forget all other names."""
        for name in [name for name in self._totals if name not in names]:
            del self._totals[name]
            for outcome in OUTCOMES:
                self._requests.remove(name, outcome)
            for kind in ("prompt", "completion"):
                self._tokens.remove(name, kind)
            self._first.remove(name)
            self._seconds.remove(name)
