"""The cost of the operator, read from its own metrics."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Totals of the operator's process."""

    requests: Mapping[str, float]
    """Requests to the API server by HTTP method, without kopf's watches."""
    resident_bytes: float
    processor_seconds: float

    def since(self, before: "Cost") -> "Cost":
        """Return the difference from an earlier reading of the process; the memory is the last."""
        requests = {
            method: count - before.requests.get(method, 0)
            for method, count in sorted(self.requests.items())
            if count != before.requests.get(method, 0)
        }
        spent = self.processor_seconds - before.processor_seconds
        return replace(self, requests=requests, processor_seconds=spent)


def parsed(text: str) -> Cost:
    """Parse the text of ``/metrics``. Raise ValueError if a metric is missing."""
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
    """Return the value of a metric with one sample. Raise ValueError if it is missing."""
    sample = re.search(rf"^{name} (\S+)$", text, re.M)
    if sample is None:
        raise ValueError(f"the operator's metrics have no {name}")
    return float(sample[1])
