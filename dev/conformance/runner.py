"""Run the tests of the components, print a table, and record the result."""

from __future__ import annotations

from collections.abc import Sequence

from checks import environment, suites
from cluster import packages
from cluster.errors import ClusterError
from conformance import components, pages
from conformance.components import Component
from conformance.pages import Row


def run(names: Sequence[str]) -> int:
    """Test the components with these names, or all; return the exit status.

    A run without a failure changes the record of its components, and the pages.
    """
    packages.ensure()
    environment.ensure()
    suites.begin()
    chosen = [each for each in components.ALL if not names or each.name in names]
    rows = []
    for each in chosen:
        if row := _tested(each):
            rows.append(row)
    status = suites.summary()
    if status == 0:
        pages.record(rows)
        pages.write()
    return status


def _tested(component: Component) -> Row | None:
    """Return the result of a component, or None after an error that the summary contains."""
    try:
        setup = component.prepare()
    except ClusterError as error:
        suites.failed_outside(component.title, error)
        return None
    suites.pytest(
        component.title, component.tests, background=False, python=setup.python, **setup.variables
    )
    outcome = suites.outcomes[-1]
    return Row(
        component=component.name,
        label=component.label,
        version=setup.version,
        tests=outcome.passed,
        seconds=round(outcome.seconds),
    )
