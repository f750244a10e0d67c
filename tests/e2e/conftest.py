"""Fixtures of the end-to-end tests: the real cluster, the real images, the real chart.

The commands of ``make run`` start the cluster and install the operator of this checkout. The
cluster keeps running after the tests. Two processes can run different files at the same time (see
``locks``), because every test uses separate namespaces and the node advertises enough GPUs.
"""

import re
import time
from collections.abc import Generator, Iterator

import pytest
from tests.e2e import evidence
from tests.support.local_cluster import gpus, locks, recorder
from tests.support.local_cluster.target import (
    REPOSITORY,
    Cluster,
    local_kubectl,
    namespaces,
    remove_leftovers,
)
from tests.support.local_cluster.tuning import Tuning

EVIDENCE = REPOSITORY / "build" / "e2e" / time.strftime("%Y%m%d-%H%M%S")
_cluster = pytest.StashKey[Cluster]()
_figures = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The local cluster with the operator of this checkout."""
    kubectl = local_kubectl()
    # Leftovers are removed before the recording starts, because jobs of a killed run have the same
    # names as the jobs of this run.
    remove_leftovers(kubectl)
    with locks.shared(locks.LANES), recorder.recording(kubectl) as record:
        found = Cluster(kubectl=kubectl, record=record)
        request.session.config.stash[_cluster] = found
        found.wait_for_operator()
        found.require_free_gpu()
        gpus.advertise(found, gpus.PLENTY)
        yield found
        if locks.is_last(locks.LANES):
            gpus.advertise(found)
        del request.session.config.stash[_cluster]


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


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> list[str]:
    """Lines that are printed after all tests."""
    return request.config.stash.setdefault(_figures, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that the tests measured."""
    for line in terminalreporter.config.stash.get(_figures, []):
        terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collect the evidence of a failed test, and print its folder."""
    report = yield
    found = item.config.stash.get(_cluster, None)
    if report.failed and found is not None and "tests/e2e" in item.nodeid:
        folder = EVIDENCE / f"{re.sub(r'[^A-Za-z0-9]+', '-', item.name)}-{report.when}"
        evidence.collect(found, folder, _namespaces(found))
        report.sections.append(("what the cluster looked like", str(folder)))
    return report


def _namespaces(cluster: Cluster) -> list[str]:
    names = {event.key[0] for event in cluster.record.events("FineTuneJob")}
    return sorted(name for name in names if name.startswith("e2e-"))
