"""What the operator has cost, read from its own metrics."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Figures of the operator's process so far."""

    requests: Mapping[str, float]
    """Requests to the API server by HTTP method; kopf's watches are not among them."""
    resident_bytes: float
    processor_seconds: float

    def since(self, before: "Cost") -> dict[str, float]:
        """Requests by method since an earlier look at the same process."""
        return {
            method: count - before.requests.get(method, 0)
            for method, count in sorted(self.requests.items())
            if count != before.requests.get(method, 0)
        }


def parsed(text: str) -> Cost:
    """Return the figures in the text of ``/metrics``. Raises ValueError."""
    requests: dict[str, float] = {}
    for method, count in re.findall(
        r'^rest_client_requests_total\{.*method="(\w+)".*\} (\S+)$', text, re.M
    ):
        requests[method] = requests.get(method, 0) + float(count)
    return Cost(
        requests=requests,
        resident_bytes=value(text, "process_resident_memory_bytes"),
        processor_seconds=value(text, "process_cpu_seconds_total"),
    )


def value(text: str, name: str) -> float:
    """Return the one sample of a metric. Raises ValueError where there is none."""
    found = re.search(rf"^{name} (\S+)$", text, re.M)
    if found is None:
        raise ValueError(f"the operator's metrics have no {name}")
    return float(found[1])
