"""The number of GPUs that the node advertises. The node has no real GPU, so any number works."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.local_cluster import locks
from tests.support.local_cluster.target import GPU, Cluster

from cluster.settings import GPU_COUNT, NODE_NAME

PLENTY = 8
"""More than the concurrent tests request."""


@contextmanager
def advertised(cluster: Cluster, count: int, *, then: int = GPU_COUNT) -> Iterator[None]:
    """Advertise ``count`` GPUs in the block, and ``then`` after the block."""
    advertise(cluster, count)
    try:
        yield
    finally:
        advertise(cluster, then)


@contextmanager
def only_one(cluster: Cluster) -> Iterator[None]:
    """Advertise one GPU in the block; no other lane uses GPUs meanwhile."""
    with locks.alone(locks.GPUS), advertised(cluster, 1, then=PLENTY):
        yield


def advertise(cluster: Cluster, count: int = GPU_COUNT) -> None:
    """Advertise ``count`` GPUs; None restores the default number of the cluster."""
    amounts = {GPU: str(count)}
    patch = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
    cluster.kubectl.run(
        "patch", "node", NODE_NAME, "--subresource=status", "--type=merge", f"--patch={patch}"
    )
