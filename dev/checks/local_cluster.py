"""The local cluster of the tests: built and started in one lane while the others wait for it."""

from __future__ import annotations

import threading
import uuid

from cluster import cli, lifecycle, paths
from cluster.artifacts import binaries, images
from cluster.errors import ClusterError
from cluster.host import cgroups

RUN = uuid.uuid4().hex[:12]
"""The id of this run in the label of its namespaces; namespaces of other runs are leftovers."""


class Build:
    """Builds all missing binaries and images, and starts the cluster.

    ended: set at the end, even after an error. error: the reason why there is no cluster, or None.
    """

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: ClusterError | None = None

    def run(self) -> None:
        """Build and start the cluster; the node pulls the images in parallel."""
        try:
            # Build first what tests wait for.
            binaries.ensure(*binaries.ASSETS)
            binaries.ensure(*binaries.CLUSTER)
            images.ensure(*images.ALL.values())
            _start_cluster()
        except ClusterError as error:
            self.error = error
        finally:
            self.ended.set()

    def start_cluster(self) -> None:
        """Start the cluster with the operator of this checkout."""
        try:
            _start_cluster()
        except ClusterError as error:
            self.error = error


def variables() -> dict[str, str]:
    """Return the environment variables of tests on the cluster."""
    return {
        "KUBECONFIG": str(paths.KUBECONFIG),
        "KUBEBUILDER_ASSETS": str(binaries.folder()),
        "FINETUNE_E2E_RUN": RUN,
    }


def _start_cluster() -> None:
    lifecycle.up()
    # All end-to-end tests wait for the first pods, too.
    cgroups.prefer()
    cli.install_here()
