"""Count the writes of an operator, and simulate a crash after the n-th write in a namespace."""

import json
from collections import Counter

from tests.integration.relay import CUT, PASS, Call, Outcome


class WriteCounter:
    """Counts writes by namespace.

    crash_points: after this number of writes in a namespace, all further requests about the
    namespace are cut, as if the operator had crashed.
    """

    def __init__(self) -> None:
        self.crash_points: dict[str, int] = {}
        self.crashed: set[str] = set()
        self.count: Counter[str] = Counter()
        self.jobs: Counter[tuple[str, str]] = Counter()

    def decide(self, call: Call) -> Outcome:
        return CUT if call.namespace in self.crashed else PASS

    def after(self, call: Call, status: int) -> None:
        # The operator makes no decision from an event, so a crash before and after it are the same.
        if not call.writes or status >= 300 or call.path.endswith("/events"):
            return
        self.count[call.namespace] += 1
        if call.method == "POST" and call.path.endswith("/jobs"):
            self.jobs[call.namespace, json.loads(call.body)["metadata"]["name"]] += 1
        if self.count[call.namespace] == self.crash_points.get(call.namespace):
            self.crashed.add(call.namespace)

    def jobs_of(self, namespace: str) -> dict[str, int]:
        """Return the number of creations of each Job in a namespace."""
        return {name: count for (space, name), count in self.jobs.items() if space == namespace}
