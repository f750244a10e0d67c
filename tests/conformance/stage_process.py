"""Hold, release and kill the process of a stage in its pod, from the node.

The kernel stops the processes of a held pod, which the kubelet reports as running.
"""

import os
import signal

from tests.support.local_cluster.kubectl import Object

from cluster.components import containers


def hold(pod: Object, container: str) -> None:
    """Stop all processes of a container until they are released or killed."""
    _signal(pod, container, signal.SIGSTOP)


def release(pod: Object, container: str) -> None:
    """Continue all processes of a container that is held."""
    _signal(pod, container, signal.SIGCONT)


def kill(pod: Object, container: str) -> None:
    """Kill a container without a signal that it could handle."""
    containers.ctr("task", "kill", "--signal", "SIGKILL", _id(pod, container))


def _signal(pod: Object, container: str, number: signal.Signals) -> None:
    lines = containers.ctr("task", "ps", _id(pod, container)).stdout.splitlines()[1:]
    for line in lines:
        os.kill(int(line.split()[0]), number)


def _id(pod: Object, container: str) -> str:
    (runtime,) = {
        each["containerID"]
        for each in pod["status"]["containerStatuses"]
        if each["name"] == container
    }
    return str(runtime.partition("://")[2])
