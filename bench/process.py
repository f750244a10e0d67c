"""What the operator itself costs: requests, memory, processor time, and how fast it starts."""

import http.client
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.e2e.target import OPERATOR_NAMESPACE, Cluster

START_SECONDS = 60.0
POLL_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Figures of the operator's process so far."""

    requests: Mapping[str, float]
    """Requests to the API server by HTTP method; a watch counts as one GET."""
    resident_bytes: float
    processor_seconds: float

    def since(self, before: "Cost") -> dict[str, float]:
        """Requests by method since an earlier look at the same process."""
        return {
            method: count - before.requests.get(method, 0)
            for method, count in sorted(self.requests.items())
            if count != before.requests.get(method, 0)
        }


def cost(cluster: Cluster) -> Cost:
    """Read the operator's own metrics."""
    name = cluster.wait_for_operator()["metadata"]["name"]
    text = cluster.kubectl.raw(f"{_proxy(name)}/metrics")
    requests: dict[str, float] = {}
    for method, count in re.findall(
        r'^rest_client_requests_total\{.*method="(\w+)".*\} (\S+)$', text, re.M
    ):
        requests[method] = requests.get(method, 0) + float(count)
    return Cost(
        requests=requests,
        resident_bytes=_value(text, "process_resident_memory_bytes"),
        processor_seconds=_value(text, "process_cpu_seconds_total"),
    )


def start_seconds(cluster: Cluster) -> float:
    """Replace the leader's pod; return the seconds from process start to a ready answer."""
    old = cluster.wait_for_operator()
    known = {pod["metadata"]["uid"] for pod in cluster.record.present("Pod", OPERATOR_NAMESPACE)}
    cluster.kubectl.delete("pod", old["metadata"]["name"], OPERATOR_NAMESPACE)

    def started() -> tuple[str, str] | None:
        for pod in cluster.record.present("Pod", OPERATOR_NAMESPACE):
            if pod["metadata"]["uid"] not in known and pod["status"].get("podIP"):
                return str(pod["metadata"]["name"]), str(pod["status"]["podIP"])
        return None

    name, host = cluster.record.wait("a new operator pod has an address", started, seconds=60)
    ready = _wait_for_answer(host)
    cluster.wait_for_operator(other_than=old["metadata"]["uid"])
    text = cluster.kubectl.raw(f"{_proxy(name)}/metrics")
    return ready - _value(text, "process_start_time_seconds")


def _wait_for_answer(host: str) -> float:
    """Return when /readyz was first answered with 200. The node reaches its pods directly."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(host, 8080, timeout=2)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.client.OK:
                return time.time()
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"the operator did not answer within {START_SECONDS:.0f} s")


def _proxy(name: str) -> str:
    return f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{name}:8080/proxy"


def _value(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.M)
    if found is None:
        raise ValueError(f"the operator's metrics have no {name}")
    return float(found[1])
