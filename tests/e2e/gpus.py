"""How many GPUs the cluster's node says that it has: nobody here has one, so any number will do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.target import GPU, Cluster

from cluster.settings import GPU_COUNT, NODE_NAME


@contextmanager
def advertised(cluster: Cluster, count: int) -> Iterator[None]:
    """Let the node advertise ``count`` GPUs for the length of a block."""
    _advertise(cluster, count)
    try:
        yield
    finally:
        _advertise(cluster, GPU_COUNT)


def _advertise(cluster: Cluster, count: int) -> None:
    amounts = {GPU: str(count)}
    patch = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
    cluster.kubectl.run(
        "patch", "node", NODE_NAME, "--subresource=status", "--type=merge", f"--patch={patch}"
    )
