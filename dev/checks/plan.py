"""Which checks and suites there are, and what runs beside what.

What needs no cluster runs in lanes, longest first: one for each core, and one more, because the
tests against the API server wait half of their time. What is not built yet is built beside it.
The end-to-end tests come last and alone: they measure times.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable

from checks import environment, suites
from cluster import binaries, cli, images, lifecycle, packages, paths, phases
from cluster.errors import ClusterError
from cluster.phases import phase

API_SERVER = {
    "chart": binaries.ASSETS,
    "gitops": binaries.ASSETS,
    "integration": binaries.ASSETS,
    "kueue": (*binaries.ASSETS, binaries.KUEUE),
}
"""Suites and what each needs. Kueue last: nothing else waits for its build, or fails with it."""
FORMATTED = ("bench", "crds", "dev", "operator", "tests", "trainer")


def _formatted() -> list[str]:
    return [name for name in FORMATTED if (paths.REPO / name).is_dir()]


def fmt() -> int:
    """Format, and fix what the linter can fix."""
    environment.ensure()
    ruff = environment.program("ruff")
    formatted = suites.command("format", [ruff, "format", *_formatted()])
    fixed = suites.command("lint", [ruff, "check", "--fix", *_formatted()])
    return 0 if formatted and fixed else 1


def check() -> int:
    """What needs no cluster: format, lint, types, import rules, generated files, unit tests."""
    environment.ensure()
    phases.side_by_side(_unit, _check, lanes=_cores())
    return suites.summary()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _check() -> None:
    python, ruff = environment.program("python"), environment.program("ruff")
    suites.command("format", [ruff, "format", "--check", *_formatted()])
    suites.command("lint", [ruff, "check", *_formatted()])
    suites.command("types", [environment.program("mypy"), *_formatted()])
    suites.command("import rules", [environment.program("lint-imports")])
    suites.command("generated files", [python, "-m", "finetune_api.crd.generate", "--check"])


def _unit(**variables: str) -> None:
    suites.pytest("unit", ["tests/unit"], **variables)


def test() -> int:
    """Everything; the first failure does not stop the rest."""
    packages.ensure()
    environment.ensure()
    unit = functools.partial(_unit, PYTEST_ADDOPTS="--hypothesis-profile=thorough")
    with phase("checks, and the tests that need no cluster; beside them all that is not built yet"):
        phases.side_by_side(_build, _api_server, unit, *_trainer(), _check, lanes=_cores() + 1)
    _end_to_end()
    # Last, because it ends with the cluster taken away.
    suites.pytest("cluster", ["tests/cluster"])
    return suites.summary()


def e2e() -> int:
    """The end-to-end tests alone."""
    packages.ensure()
    environment.ensure()
    _end_to_end()
    return suites.summary()


def bench() -> int:
    """Measure everything, with the output as it comes; some three hours.

    What the cluster would disturb comes first: two of them start it.
    """
    packages.ensure()
    environment.ensure()
    assets = str(binaries.ensure(*binaries.ASSETS))
    variables = {**os.environ, **environment.variables(), "KUBEBUILDER_ASSETS": assets}
    codes = []
    for name in ("merge", "trainer", "scale", "idle", "soak", "quickstart", "verify"):
        command = [environment.program("python"), "bench", name, "--write"]
        codes.append(subprocess.run(command, cwd=paths.REPO, env=variables, check=False).returncode)
    return int(any(codes))


def _trainer(parts: int = 2) -> list[Callable[[], object]]:
    """The trainer's tests in parts, each with libraries of its own loaded."""
    files = sorted((paths.REPO / "tests" / "trainer").rglob("test_*.py"))
    names = [str(file.relative_to(paths.REPO)) for file in files]
    return [
        functools.partial(suites.pytest, f"trainer-{part + 1}", names[part::parts])
        for part in range(parts)
    ]


def _build() -> None:
    """All that is not built yet, and the cluster: its node pulls the images meanwhile."""
    try:
        # What tests wait for comes first.
        binaries.ensure(*binaries.ASSETS)
        binaries.ensure(*binaries.CLUSTER)
        images.ensure(*images.ALL.values())
        _start_cluster()
    except ClusterError as error:
        suites.failed_outside("build", error)


def _start_cluster() -> None:
    lifecycle.up()
    cli.install_here()


def _api_server() -> None:
    """Tests against a control plane of their own."""
    for name, needed in API_SERVER.items():
        # Where it is being built, this waits for the other lane.
        try:
            assets = str(binaries.ensure(*needed))
        except ClusterError as error:
            suites.failed_outside(name, error)
            continue
        suites.pytest(name, [f"tests/{name}"], KUBEBUILDER_ASSETS=assets)


def _end_to_end() -> None:
    if not (paths.REPO / "tests" / "e2e").is_dir():
        return
    try:
        _start_cluster()
    except ClusterError as error:
        suites.failed_outside("e2e", error)
        return
    suites.pytest(
        "e2e",
        ["tests/e2e"],
        KUBECONFIG=str(paths.KUBECONFIG),
        KUBEBUILDER_ASSETS=str(binaries.folder()),
    )
