"""How many GPUs the cluster's node says that it has: nobody here has one, so any number will do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.target import GPU, Cluster

from cluster.settings import GPU_COUNT, NODE_NAME


@contextmanager
def advertised(cluster: Cluster, count: int) -> Iterator[None]:
    """Let the node advertise ``count`` GPUs for the length of a block."""
    advertise(cluster, count)
    try:
        yield
    finally:
        advertise(cluster)


def advertise(cluster: Cluster, count: int = GPU_COUNT) -> None:
    """Let the node advertise ``count`` GPUs from now on, without one the cluster's usual number."""
    amounts = {GPU: str(count)}
    patch = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
    cluster.kubectl.run(
        "patch", "node", NODE_NAME, "--subresource=status", "--type=merge", f"--patch={patch}"
    )
