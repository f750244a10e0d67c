"""Fixtures: those of the API server, and the registry of a release; a report of what failed."""

from collections.abc import Generator

import pytest
from tests.integration import failure_report
from tests.support.api_server.fixtures import (  # noqa: F401  (pytest finds fixtures by name)
    control_plane,
    controller_manager,
    namespace,
    operator,
    operators_are_forked,
    place,
)
from tests.support.releases import registry  # noqa: F401


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print the state of the cluster if a test fails."""
    report = yield
    if report.failed and "tests/integration" in item.nodeid:
        report.sections += failure_report.sections(getattr(item, "funcargs", {}))
    return report
