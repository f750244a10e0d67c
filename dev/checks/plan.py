"""Which checks and suites there are, and what runs beside what.

On two cores the whole is shortest when the Go builds (no tests need them at first) run beside
the checks and the trainer's tests. The end-to-end tests come last and alone: they measure times.
"""

from __future__ import annotations

import os
import subprocess

from checks import environment, suites
from cluster import binaries, cli, images, lifecycle, packages, paths, phases
from cluster.errors import ClusterError
from cluster.phases import phase

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
    _check()
    return suites.summary()


def _check(**unit: str) -> None:
    """Run the checks; ``unit`` are environment variables of the unit tests."""
    python, ruff = environment.program("python"), environment.program("ruff")
    suites.command("format", [ruff, "format", "--check", *_formatted()])
    suites.command("lint", [ruff, "check", *_formatted()])
    suites.command("types", [environment.program("mypy"), *_formatted()])
    suites.command("import rules", [environment.program("lint-imports")])
    suites.command("generated files", [python, "-m", "finetune_api.generate", "--check"])
    suites.pytest("unit", ["tests/unit"], **unit)


def test() -> int:
    """Everything; the first failure does not stop the rest."""
    packages.ensure()
    environment.ensure()
    with phase("checks, trainer tests; beside them builds, API server tests"):
        phases.side_by_side(_checks_and_trainer, _control_plane_and_images)
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
    """Measure the quickstart, with the output as it comes."""
    packages.ensure()
    environment.ensure()
    command = [environment.program("python"), "bench", "--write"]
    variables = {**os.environ, **environment.variables()}
    return subprocess.run(command, cwd=paths.REPO, env=variables, check=False).returncode


def _checks_and_trainer() -> None:
    _check(PYTEST_ADDOPTS="--hypothesis-profile=thorough")
    suites.pytest("trainer", ["tests/trainer"])


def _control_plane_and_images() -> None:
    try:
        assets = str(binaries.ensure(*binaries.ASSETS))
    except ClusterError as error:
        suites.failed_outside("integration", error)
        return
    suites.pytest("chart", ["tests/chart"], KUBEBUILDER_ASSETS=assets)
    suites.pytest("gitops", ["tests/gitops"], KUBEBUILDER_ASSETS=assets)
    suites.pytest("integration", ["tests/integration"], KUBEBUILDER_ASSETS=assets)
    try:
        binaries.ensure(*binaries.CLUSTER)
        images.ensure(*images.ALL.values())
    except ClusterError as error:
        suites.failed_outside("images", error)


def _end_to_end() -> None:
    if not (paths.REPO / "tests" / "e2e").is_dir():
        return
    try:
        lifecycle.up()
        cli.install_here()
    except ClusterError as error:
        suites.failed_outside("e2e", error)
        return
    suites.pytest(
        "e2e",
        ["tests/e2e"],
        KUBECONFIG=str(paths.KUBECONFIG),
        KUBEBUILDER_ASSETS=str(binaries.folder()),
    )
