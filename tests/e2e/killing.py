"""Kill the operator without a signal that it could handle."""

from typing import Any, Literal

from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import OPERATOR_NAMESPACE, Cluster

from cluster.components import containers

How = Literal["process", "pod"]
KILLED = 137


def kill_operator(cluster: Cluster, how: How) -> None:
    """Kill the process or the pod of the operator, and wait until it has ended.

    The process is killed through the container runtime, because it is process 1 in its namespace,
    which ignores SIGKILL from inside. The kubelet then restarts it in the same pod. The Deployment
    replaces a pod that was deleted by force.
    """
    pod = cluster.wait_for_operator()
    if how == "pod":
        _delete(cluster, pod)
    else:
        _kill(cluster, pod)


def _delete(cluster: Cluster, pod: Object) -> None:
    name = pod["metadata"]["name"]
    cluster.kubectl.delete("pod", name, OPERATOR_NAMESPACE, "--force", "--grace-period=0")
    cluster.record.wait(
        f"operator pod {name} is deleted",
        lambda: cluster.record.find("Pod", OPERATOR_NAMESPACE, name) is None,
        seconds=120,
    )


def _kill(cluster: Cluster, pod: Object) -> None:
    before = _container(pod)
    runtime, _, number = before["containerID"].partition("://")
    assert runtime == "containerd", runtime
    containers.ctr("task", "kill", "--signal", "SIGKILL", number)

    def ended() -> Any:
        now = cluster.record.find("Pod", OPERATOR_NAMESPACE, pod["metadata"]["name"])
        if now is None:
            return None
        states = (_container(now).get(key, {}) for key in ("state", "lastState"))
        ends = (state.get("terminated", {}) for state in states)
        return next((end for end in ends if end.get("containerID", "").endswith(number)), None)

    end = cluster.record.wait("the operator's process has ended", ended, seconds=120)
    assert end["exitCode"] == KILLED, end


def _container(pod: Object) -> Any:
    (container,) = pod["status"]["containerStatuses"]
    return container
