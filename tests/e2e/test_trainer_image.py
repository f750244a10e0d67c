"""Capabilities of the trainer image other than training."""

from tests.support.local_cluster import locks, pods
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.target import Cluster

LOCKS: dict[str, locks.How] = {}


def test_the_image_compiles_a_driver_for_triton(cluster: Cluster, workspace: str) -> None:
    """Triton compiles a C driver when a GPU pod starts; this needs a compiler and headers."""
    task = Task(script="compile_stub.py", image=cluster.trainer_image())
    assert pods.run(cluster, workspace, task) == {"answer": 42}
