"""Build and test the components one after the other, print both durations, record the results."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Sequence

from checks import environment, suites
from checks.suites import Outcome
from cluster import packages, paths, phases
from cluster.artifacts import binaries
from cluster.errors import ClusterError
from cluster.phases import say
from conformance import components, pages
from conformance.components import Component, Setup
from conformance.pages import Row

ALL_VARIANTS = "-m ''"
"""Also those with the marker ``exhaustive``."""


def run(names: Sequence[str]) -> int:
    """Test the components with these names, or all; return the exit status.

    Each component without a failure changes its row of the record, and the pages. A failure of
    another component, or the end of the command, does not take it back. Raises ClusterError.
    """
    chosen = components.chosen(names)
    packages.ensure()
    environment.ensure()
    # All components use them: without this, the first one would count their build as its own.
    binaries.ensure(*binaries.ASSETS)
    suites.begin()
    for number, component in enumerate(chosen, start=1):
        say(f"[{number}/{len(chosen)}] {component.title}")
        if row := _tested(component):
            pages.record([row])
            pages.write()
    return suites.summary()


def _tested(component: Component) -> Row | None:
    """Return the result of a component, or None after a failure, which the summary contains."""
    build = f"build {component.title}"
    setup = _prepared(component, build)
    if setup is None or not suites.pytest(
        component.title,
        component.tests,
        background=False,
        python=setup.python,
        PYTEST_ADDOPTS=ALL_VARIANTS,
        **setup.variables,
    ):
        return None
    steps = {outcome.name: outcome for outcome in suites.outcomes}
    built, tests = steps.get(build), steps[component.title]
    return Row(
        component=component.name,
        label=component.label,
        version=setup.version,
        tests=tests.passed,
        seconds=math.ceil(tests.seconds),
        cpu_seconds=math.ceil(tests.cpu_seconds),
        build_seconds=math.ceil(built.seconds) if built else 0,
        build_cpu_seconds=math.ceil(built.cpu_seconds) if built else 0,
    )


def _prepared(component: Component, name: str) -> Setup | None:
    """Build or install a component; return None after a failure.

    It is a step of this name in the summary, unless everything existed.
    """
    before, began, cpu = len(phases.finished), time.monotonic(), _cpu_seconds()
    try:
        setup = component.prepare()
    except ClusterError as error:
        suites.failed_outside(name, error)
        return None
    if len(phases.finished) > before:
        suites.outcomes.append(
            Outcome(
                name=name,
                ok=True,
                seconds=time.monotonic() - began,
                cpu_seconds=_cpu_seconds() - cpu,
                log=paths.LOGS,
            )
        )
    return setup


def _cpu_seconds() -> float:
    """Return the CPU time of all programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
