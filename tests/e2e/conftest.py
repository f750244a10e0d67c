"""Fixtures of the end-to-end tests: the real cluster, the real images, the real chart.

The commands of ``make run`` start the cluster and install the operator of this checkout. The
cluster keeps running after the tests. Two processes can run different files at the same time (see
``locks``), because every test uses separate namespaces and the node advertises enough GPUs.
"""

import re
import time
from collections.abc import Generator

import pytest
from tests.e2e import evidence
from tests.support.local_cluster.fixtures import (  # noqa: F401  (pytest finds fixtures by name)
    CLUSTER,
    cluster,
    lane,
    tuning,
    workspace,
)
from tests.support.local_cluster.target import REPOSITORY, Cluster

EVIDENCE = REPOSITORY / "build" / "e2e" / time.strftime("%Y%m%d-%H%M%S")
_figures = pytest.StashKey[list[str]]()


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
    found = item.config.stash.get(CLUSTER, None)
    if report.failed and found is not None and "tests/e2e" in item.nodeid:
        folder = EVIDENCE / f"{re.sub(r'[^A-Za-z0-9]+', '-', item.name)}-{report.when}"
        evidence.collect(found, folder, _namespaces(found))
        report.sections.append(("what the cluster looked like", str(folder)))
    return report


def _namespaces(found: Cluster) -> list[str]:
    names = {event.key[0] for event in found.record.events("FineTuneJob")}
    return sorted(name for name in names if name.startswith("e2e-"))
