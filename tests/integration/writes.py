"""Counting what an operator writes, and being dead to it after so many writes."""

import json
from collections import Counter

from tests.integration.relay import CUT, PASS, Call, Fate


class Writes:
    """What the operator wrote, by namespace; ``points`` says after how many it is dead to which."""

    def __init__(self) -> None:
        self.points: dict[str, int] = {}
        self.dead: set[str] = set()
        self.count: Counter[str] = Counter()
        self.jobs: Counter[tuple[str, str]] = Counter()

    def decide(self, call: Call) -> Fate:
        return CUT if call.namespace in self.dead else PASS

    def after(self, call: Call, status: int) -> None:
        # An event is the last word about what was done: a crash after it leaves what one before it
        # leaves.
        if not call.writes or status >= 300 or call.path.endswith("/events"):
            return
        self.count[call.namespace] += 1
        if call.method == "POST" and call.path.endswith("/jobs"):
            self.jobs[call.namespace, json.loads(call.body)["metadata"]["name"]] += 1
        if self.count[call.namespace] == self.points.get(call.namespace):
            self.dead.add(call.namespace)

    def jobs_of(self, namespace: str) -> dict[str, int]:
        """Return how often each Job was created."""
        return {name: count for (space, name), count in self.jobs.items() if space == namespace}
