"""What the trainer image must be able to do beside training itself."""

from tests.e2e import locks, pods
from tests.e2e.pods import Task
from tests.e2e.target import Cluster

LOCKS: dict[str, locks.How] = {}


def test_it_compiles_for_triton(cluster: Cluster, workspace: str) -> None:
    """Triton compiles a C driver when a GPU pod starts: compiler and headers must be there."""
    task = Task(script="compile_stub.py", image=cluster.trainer_image())
    assert pods.run(cluster, workspace, task) == {"answer": 42}
