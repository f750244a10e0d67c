"""What ``make test`` leaves out because it takes too long: more examples, and all variants."""

from __future__ import annotations

import functools

from checks import environment, local_cluster, suites
from checks.plan import API_SERVER, ONE_THREAD, cores
from cluster import packages, phases
from cluster.artifacts import binaries

SEARCHED = ("unit", "integration", "trainer", "security")
"""Suites whose variants ``make search`` runs; those of the end-to-end tests need a cluster."""
SEARCH_PROFILE = "--hypothesis-profile=search"
HISTORIES_PROFILE = "--hypothesis-profile=histories"
KERNELS = "tests/trainer/training/test_compiled_kernels.py"
"""Compiles the Triton kernels of a training for each GPU architecture."""
ON_CLUSTER = {
    "e2e-variants": ("tests/e2e", "-m exhaustive"),
    "upgrade": ("tests/conformance/test_upgrade_cluster.py", ""),
}
"""Tests that need the local cluster, with the options of pytest."""


def search() -> int:
    """Search for examples that break a law or a property, and run the exhaustive variants.

    The random histories and the other examples of Hypothesis differ between runs.
    """
    packages.ensure()
    environment.ensure()
    suites.begin()
    searches = [functools.partial(_search, suite) for suite in SEARCHED]
    phases.side_by_side(_histories, *searches, lanes=cores())
    return suites.summary()


def _histories() -> None:
    place = "tests/unit/operator/reconcile/test_random_histories.py"
    suites.pytest("histories", [place], background=False, PYTEST_ADDOPTS=HISTORIES_PROFILE)


def _search(suite: str) -> None:
    """Run the tests of a suite that have variants or examples."""
    needed = API_SERVER.get(suite)
    assets = {"KUBEBUILDER_ASSETS": str(binaries.ensure(*needed))} if needed else {}
    options = f"{SEARCH_PROFILE} -m 'exhaustive or hypothesis'"
    variables = {**ONE_THREAD, **assets, "PYTEST_ADDOPTS": options}
    suites.pytest(f"{suite}-search", [f"tests/{suite}"], background=False, **variables)


def variants() -> int:
    """Compile all Triton kernels; run the variants on the local cluster, and its upgrade."""
    packages.ensure()
    environment.ensure()
    suites.begin()
    suites.pytest("kernels", [KERNELS], background=False, PYTEST_ADDOPTS="-m exhaustive")
    build = local_cluster.Build()
    build.start_cluster()
    for name, (place, options) in ON_CLUSTER.items():
        if build.error is not None:
            suites.failed_outside(name, build.error)
            continue
        variables = {**local_cluster.variables(), "PYTEST_ADDOPTS": options}
        suites.pytest(name, [place], background=False, **variables)
    return suites.summary()
