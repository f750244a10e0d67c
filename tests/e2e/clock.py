"""Move the clock by which the deployed operator dates usage and periods.

The operator runs with its image, its configuration and its rights. Only its command differs: it
reads how far the clock is ahead from a ConfigMap, which the kubelet updates within two minutes.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
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
class Clock:
    """The clock of the deployed operator."""

    cluster: Cluster

    def move_to(self, moment: datetime) -> None:
        """Let the clock show a moment soon, and continue from there."""
        self.ahead(int((moment - datetime.now(UTC)).total_seconds()))

    def ahead(self, seconds: int) -> None:
        """Set how far the clock is ahead of that of the API server."""
        metadata = {"name": NAME, "namespace": OPERATOR_NAMESPACE}
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        self.cluster.kubectl.apply({**config, "data": {AHEAD: str(seconds)}})


@contextmanager
def movable(cluster: Cluster) -> Iterator[Clock]:
    """Run the operator with a clock that can be moved; afterwards, it runs as before."""
    clock = Clock(cluster=cluster)
    clock.ahead(0)
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
