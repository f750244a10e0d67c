"""Attacks from the position of each tenant, repository, caller and pod of the security model.

docs/reference/security-model.md describes the positions, and states what operator, trainer and
verifier guarantee. Each test attacks one of these statements, without a cluster. Attacks that need
an API server are in tests/integration, and attacks that need a complete cluster are in tests/e2e.

Every test has the marker ``finding(number, title)``: the number of a finding of the security
review, and the attack in a few words. A file sets the marker once, as ``pytestmark``:

    pytestmark = pytest.mark.finding(1, "a Secret's content is published")

The run fails before the first test if a test has no such marker. At the end, the run prints the
number of cases of each finding.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.security.echo import echoing
from tests.support.trainer.workshop import Server, server

FOLDER = Path(__file__).parent
FINDINGS = range(1, 21)
_cases = pytest.StashKey[Counter[tuple[int, str]]]()


@pytest.fixture(scope="session")
def trainers() -> Iterator[dict[str, Server]]:
    """The process from which trainer commands are forked; its hub echoes credentials."""
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with echoing(None) as hub, server("trl", HF_ENDPOINT=hub, **quiet) as found:
        yield {"trl": found}


# First: ``checks.sharing`` deselects the files that another process runs.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Count the cases of each finding, and reject a test without a finding."""
    own = [item for item in items if FOLDER in item.path.parents]
    config.stash[_cases] = Counter(_finding(item) for item in own)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the number of cases of each finding."""
    for (number, title), count in sorted(config.stash.get(_cases, Counter()).items()):
        terminalreporter.write_line(f"finding {number:2}: {count:4} cases: {title}")


def _finding(item: pytest.Item) -> tuple[int, str]:
    marker = item.get_closest_marker("finding")
    if marker is None:
        raise pytest.UsageError(f"{item.nodeid}: add the marker finding(number, title)")
    number, title = marker.args
    if number not in FINDINGS or not title:
        raise pytest.UsageError(
            f"{item.nodeid}: the number of a finding must be between {FINDINGS[0]} and "
            f"{FINDINGS[-1]}, with a title"
        )
    return number, title
