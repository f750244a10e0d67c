"""Let the deployed operator date usage and periods a day late.

The operator runs with its image, its configuration and its rights. Only its command differs: it
reads how far the clock is ahead from a ConfigMap, which the kubelet updates within two minutes. The
clock is late and not fast, so that the usage of other namespaces loses at most its day: what it
would have charged too early could not be taken back.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from tests.support import moved_clock
from tests.support.api_server.operatorprocess import MAIN
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import OPERATOR, OPERATOR_NAMESPACE, Cluster

NAME, AHEAD = "clock-of-tests", "ahead"
FOLDER = Path("/etc") / NAME
COMMAND = ["python", "-c", f"{moved_clock.prelude(FOLDER / AHEAD)}\n{MAIN}"]
ROLLOUT_SECONDS = 300


@dataclass(frozen=True, kw_only=True)
class LateClock:
    """The clock of the deployed operator."""

    cluster: Cluster
    midnight: datetime
    """End of the day that the clock shows first."""

    def start(self) -> None:
        """Let the clock show noon, which leaves enough time until midnight."""
        noon = self.midnight - timedelta(hours=12)
        self._set(int((noon - datetime.now(UTC)).total_seconds()))

    def catch_up(self) -> None:
        """Let the clock soon show the present time, which is after midnight."""
        self._set(0)

    def _set(self, ahead: int) -> None:
        metadata = {"name": NAME, "namespace": OPERATOR_NAMESPACE}
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        self.cluster.kubectl.apply({**config, "data": {AHEAD: str(ahead)}})


@contextmanager
def late(cluster: Cluster) -> Iterator[LateClock]:
    """Run the operator with a clock that is late; afterwards, it runs as before."""
    clock = LateClock(cluster=cluster, midnight=datetime.combine(datetime.now(UTC), time(), UTC))
    clock.start()
    deployment = cluster.kubectl.get("deployment", OPERATOR, OPERATOR_NAMESPACE)
    before = deployment["spec"]["template"]
    container = {
        "name": before["spec"]["containers"][0]["name"],
        "command": COMMAND,
        "volumeMounts": [{"name": NAME, "mountPath": str(FOLDER), "readOnly": True}],
    }
    volume = {"name": NAME, "configMap": {"name": NAME}}
    pod = {"containers": [container], "volumes": [volume]}
    try:
        _roll_out(cluster, "strategic", {"spec": {"template": {"spec": pod}}})
        yield clock
    finally:
        _roll_out(cluster, "json", [{"op": "replace", "path": "/spec/template", "value": before}])
        cluster.kubectl.delete("configmap", NAME, OPERATOR_NAMESPACE)


def _roll_out(cluster: Cluster, how: str, change: Object | list[Object]) -> None:
    """Patch the Deployment of the operator, and wait until only new pods run."""
    place = (f"deployment/{OPERATOR}", f"--namespace={OPERATOR_NAMESPACE}")
    cluster.kubectl.run("patch", *place, f"--type={how}", f"--patch={json.dumps(change)}")
    timeout = f"--timeout={ROLLOUT_SECONDS}s"
    cluster.kubectl.run("rollout", "status", *place, timeout, seconds=ROLLOUT_SECONDS + 10)
    cluster.wait_for_operator()
