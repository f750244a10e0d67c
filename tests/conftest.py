"""All tests: profiles of Hypothesis, garbage collection, and the CPU time of each test process.

``--hypothesis-profile`` chooses a profile.
"""

import gc
import resource

import pytest
from hypothesis import HealthCheck, settings

ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""No limit of time for an example or for its generation: a machine may be busy."""

settings.register_profile("default", ANY_SPEED)
"""The profile of a run that chooses none."""

settings.register_profile("repeatable", ANY_SPEED, derandomize=True)
"""``make test``: always the same examples, so that only a change can break it."""

settings.register_profile("search", ANY_SPEED, max_examples=1000, print_blob=True)
"""``make search``: other examples in each run. It prints how to repeat a failure."""

settings.register_profile("histories", settings.get_profile("search"), max_examples=3000)
"""``make search``: the random histories of a job."""


def pytest_collection() -> None:
    """Do not search for garbage while modules and tests are created, which live until the end."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Never search them later: a test that creates many objects would do so again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the CPU time, which other processes on the machine affect less than the duration.

    ``make test`` prints indented lines of a suite.
    """
    own, children = (
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    terminalreporter.write_line(
        f"    CPU time: {own + children:.1f} s, of which {children:.1f} s in child processes"
    )
