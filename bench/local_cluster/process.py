"""Cost and start time of the operator on the local cluster."""

import http.client
import time

from tests.e2e import metrics
from tests.support.local_cluster.target import OPERATOR_NAMESPACE, Cluster

from bench.cost import Cost, parsed, value
from finetune_operator import health

START_SECONDS = 60.0
POLL_SECONDS = 0.02


def cost(cluster: Cluster) -> Cost:
    """Read the operator's metrics."""
    pod = cluster.wait_for_operator()
    return parsed(metrics.scrape(cluster, pod["status"]["podIP"]))


def start_seconds(cluster: Cluster) -> float:
    """Replace the leader's pod; return the seconds from process start to readiness."""
    old = cluster.wait_for_operator()
    existing = {pod["metadata"]["uid"] for pod in cluster.record.present("Pod", OPERATOR_NAMESPACE)}
    cluster.kubectl.delete("pod", old["metadata"]["name"], OPERATOR_NAMESPACE)

    def started() -> str | None:
        for pod in cluster.record.present("Pod", OPERATOR_NAMESPACE):
            if pod["metadata"]["uid"] not in existing and pod["status"].get("podIP"):
                return str(pod["status"]["podIP"])
        return None

    host = cluster.record.wait("a new operator pod has an address", started, seconds=60)
    ready = _wait_for_answer(host)
    cluster.wait_for_operator(other_than=old["metadata"]["uid"])
    return ready - value(metrics.scrape(cluster, host), "process_start_time_seconds")


def _wait_for_answer(host: str) -> float:
    """Return the time of the first 200 of /readyz. The node reaches its pods directly."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(host, health.PORT, timeout=2)
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
