"""Fixtures of the tests on the local cluster."""

import re
from collections.abc import Iterator

import pytest
from tests.support.local_cluster import gpus, locks, recorder
from tests.support.local_cluster.target import Cluster, local_kubectl, namespaces, remove_leftovers
from tests.support.local_cluster.tuning import Tuning

CLUSTER = pytest.StashKey[Cluster]()
"""The cluster while the fixture exists, for the evidence of a failed test."""


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The local cluster with the operator of this checkout."""
    kubectl = local_kubectl()
    # Leftovers are removed before the recording starts, because jobs of a killed run have the same
    # names as the jobs of this run.
    remove_leftovers(kubectl)
    with locks.shared(locks.LANES), recorder.recording(kubectl) as record:
        found = Cluster(kubectl=kubectl, record=record)
        request.session.config.stash[CLUSTER] = found
        found.wait_for_operator()
        found.require_free_gpu()
        gpus.advertise(found, gpus.PLENTY)
        yield found
        if locks.is_last(locks.LANES):
            gpus.advertise(found)
        del request.session.config.stash[CLUSTER]


@pytest.fixture(scope="module", autouse=True)
def lane(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold the locks of the file (see ``locks``)."""
    with locks.held(getattr(request.module, "LOCKS", locks.USUAL)):
        yield


@pytest.fixture
def workspace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test, named after the test."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).removeprefix("test-")
    name = f"e2e-{words}"[:60].strip("-")
    with namespaces(cluster, name):
        yield name


@pytest.fixture
def tuning(cluster: Cluster, workspace: str) -> Tuning:
    """A job in a separate namespace; the test applies the job."""
    return Tuning(cluster=cluster, namespace=workspace, name="small")
