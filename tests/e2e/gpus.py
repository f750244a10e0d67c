"""How many GPUs the cluster's node says that it has: nobody here has one, so any number will do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e import locks
from tests.e2e.target import GPU, Cluster

from cluster.settings import GPU_COUNT, NODE_NAME

PLENTY = 8
"""More than all tests that run at the same time ask for."""


@contextmanager
def advertised(cluster: Cluster, count: int, *, then: int = GPU_COUNT) -> Iterator[None]:
    """Let the node advertise ``count`` GPUs for the length of a block, and ``then`` after it."""
    advertise(cluster, count)
    try:
        yield
    finally:
        advertise(cluster, then)


@contextmanager
def only_one(cluster: Cluster) -> Iterator[None]:
    """Let the node advertise one GPU for the length of a block, in which no other lane needs it."""
    with locks.alone(locks.GPUS), advertised(cluster, 1, then=PLENTY):
        yield


def advertise(cluster: Cluster, count: int = GPU_COUNT) -> None:
    """Let the node advertise ``count`` GPUs from now on, without one the cluster's usual number."""
    amounts = {GPU: str(count)}
    patch = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
    cluster.kubectl.run(
        "patch", "node", NODE_NAME, "--subresource=status", "--type=merge", f"--patch={patch}"
    )
