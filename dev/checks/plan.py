"""The checks and test suites, and the lane of each.

A lane is a list of tasks that run one after another; all lanes run in parallel. The end-to-end
tests and the tests with an API server mostly wait, so there are more lanes than cores. The trainer
tests, the unit tests and the checks only compute. They run at low priority and use the CPU time
that the other lanes leave. Lanes of one suite share its files (``sharing``).
"""

from __future__ import annotations

import functools
import itertools
import os
import threading

from checks import environment, lanes, local_cluster, suites
from checks.local_cluster import Build
from cluster import packages, paths, phases
from cluster.artifacts import binaries
from cluster.errors import ClusterError
from cluster.phases import phase

API_SERVER = {
    "chart": binaries.ASSETS,
    "gitops": binaries.ASSETS,
    "integration": binaries.ASSETS,
    "kueue": (*binaries.ASSETS, binaries.KUEUE),
}
"""Suites and their requirements. Kueue is last, so that no other suite waits for its build."""
E2E = (
    (
        *("closed_namespace", "data_formats", "failures", "tenants", "training"),
        *("shared_endpoint", "serving"),
    ),
    ("quickstart", "trainer_image"),
)
"""Files of the end-to-end tests by lane. The quickstart takes most of the time of the second."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Variables of processes that share the cores; spinning threads would slow down each other."""
GO_COLLECTOR = {"GOGC": "400"}
"""Variable of the Go programs, which then collect garbage less often: CPU time limits a test run,
memory does not. The API server of the integration tests needs a tenth less CPU time."""
BROWSER = {"chromium": "chromium"}
"""Debian package of the tests of the page, and its program."""
_numbers = {suite: itertools.count(1) for suite in ("integration", "trainer")}
FORMATTED = ("bench", "crds", "dev", "operator", "tests", "trainer")


def _formatted() -> list[str]:
    return [name for name in FORMATTED if (paths.REPO / name).is_dir()]


def fmt() -> int:
    """Format the code, and fix the linter errors that can be fixed automatically."""
    environment.ensure()
    ruff = environment.program("ruff")
    formatted = suites.command("format", [ruff, "format", *_formatted()])
    fixed = suites.command("lint", [ruff, "check", "--fix", *_formatted()])
    return 0 if formatted and fixed else 1


def check() -> int:
    """Run the checks that need no cluster: format, lint, types, imports, generated files, tests."""
    environment.ensure()
    phases.side_by_side(_unit, _check, lanes=cores())
    return suites.summary()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _check(*, background: bool = False) -> None:
    python, ruff = environment.program("python"), environment.program("ruff")
    run = functools.partial(suites.command, background=background)
    run("format", [ruff, "format", "--check", *_formatted()])
    run("lint", [ruff, "check", *_formatted()])
    run("types", [environment.program("mypy"), *_formatted()])
    run("import rules", [environment.program("lint-imports")])
    run("generated files", [python, "-m", "finetune_api.crd.generate", "--check"])
    run("chart reference", [python, "-m", "chartdocs", "--check"])
    run("command-line reference", [python, str(paths.DEV / "clidocs"), "--check"])
    run("model families", [python, str(paths.DEV / "families"), "check"])
    run("support matrix", [python, str(paths.DEV / "conformance"), "check"])
    run("tutorial page", [python, str(paths.DEV / "tutorial"), "check"])


def _unit(*, background: bool = False, **variables: str) -> None:
    suites.pytest("unit", ["tests/unit"], background=background, **variables)


def test() -> int:
    """Run everything; the first failure does not stop the rest."""
    os.environ.update(GO_COLLECTOR)
    packages.ensure()
    environment.ensure()
    suites.begin()
    with phase("checks and tests, and next to them all that is not built yet"):
        lanes.run(*_lanes())
    return _report()


def _lanes() -> list[lanes.Lane]:
    """Return the lanes of ``make test``."""
    build, second_ended = Build(), threading.Event()

    def second_end_to_end() -> None:
        try:
            _end_to_end(1, build)
        finally:
            second_ended.set()

    first, second = lanes.Lane(name="cluster 1"), lanes.Lane(name="cluster 2")
    first.works = [
        build.run,
        lambda: _end_to_end(0, build),
        first.waiting(second_ended.wait),
        suites.count_pods,
        # The last suite that needs the cluster removes it.
        lambda: suites.pytest("cluster", ["tests/cluster"]),
        # A third process, because two that wait for servers and processes leave cores idle.
        _trainer,
    ]
    second.works = [
        second.waiting(build.ended.wait),
        second_end_to_end,
        _integration,
    ]
    server = lanes.Lane(name="API server", works=[_api_server])
    computing = [
        lanes.Lane(name="computing 1", works=[_background_check, _repeatable_unit, _trainer]),
        lanes.Lane(name="computing 2", works=[_security, _package, _page, _trainer]),
    ]
    return [first, second, server, *computing]


def _report() -> int:
    suites.remember_durations()
    suites.slowest()
    lanes.report()
    return suites.summary()


def e2e() -> int:
    """Run the end-to-end tests only."""
    packages.ensure()
    environment.ensure()
    suites.begin()
    build = Build()
    build.start_cluster()
    lanes.run(
        lanes.Lane(name="cluster 1", works=[lambda: _end_to_end(0, build)]),
        lanes.Lane(name="cluster 2", works=[lambda: _end_to_end(1, build)]),
    )
    return _report()


def bench() -> int:
    """Run all benchmarks, with live output; this takes about three hours."""
    packages.ensure()
    environment.ensure()
    assets = str(binaries.ensure(*binaries.ASSETS))
    return suites.live(["bench", "all"], KUBEBUILDER_ASSETS=assets)


def _background_check() -> None:
    _check(background=True)


def _repeatable_unit() -> None:
    _unit(background=True, PYTEST_ADDOPTS="--hypothesis-profile=repeatable")


def _security() -> None:
    suites.pytest("security", ["tests/security"], background=True, **ONE_THREAD)


def _shared(suite: str, *, background: bool = False, **variables: str) -> None:
    """Run the files of a suite that no other lane has claimed."""
    name = f"{suite}-{next(_numbers[suite])}"
    variables |= suites.shared(suite)
    suites.pytest(name, [f"tests/{suite}"], background=background, **variables)


def _trainer() -> None:
    _shared("trainer", background=True, **ONE_THREAD)


def _package() -> None:
    suites.pytest("package", ["tests/package"], background=True)


def _page() -> None:
    """Run the tests of the page in a browser; without one, they are skipped with the reason.

    One of them starts a control plane of its own.
    """
    try:
        packages.ensure_programs(BROWSER)
    except ClusterError as error:
        phases.say(f"    page: {error}")
    try:
        assets = str(binaries.ensure(*binaries.ASSETS))
    except ClusterError as error:
        suites.failed_outside("page", error)
        return
    suites.pytest("page", ["tests/page"], background=True, KUBEBUILDER_ASSETS=assets)


def _api_server() -> None:
    """Run the tests that start a separate control plane."""
    for name, needed in API_SERVER.items():
        # If another lane builds the binaries, this call waits for that lane.
        try:
            assets = str(binaries.ensure(*needed))
        except ClusterError as error:
            suites.failed_outside(name, error)
            continue
        if name == "integration":
            _shared(name, KUBEBUILDER_ASSETS=assets)
        else:
            suites.pytest(name, [f"tests/{name}"], KUBEBUILDER_ASSETS=assets)


def _integration() -> None:
    """Run files of the longest suite that no other lane has claimed."""
    _shared("integration", KUBEBUILDER_ASSETS=str(binaries.folder()))


def _end_to_end(lane: int, build: Build) -> None:
    """Run one lane of the end-to-end tests; files without a lane belong to the last one."""
    name = f"e2e-{lane + 1}"
    if build.error is not None:
        suites.failed_outside(name, build.error)
        return
    files = [f"tests/e2e/test_{name}.py" for name in E2E[lane]]
    if lane == len(E2E) - 1:
        assigned = {f"test_{name}.py" for names in E2E for name in names}
        present = sorted((paths.REPO / "tests" / "e2e").glob("test_*.py"))
        files += [f"tests/e2e/{file.name}" for file in present if file.name not in assigned]
    suites.pytest(name, files, background=False, **local_cluster.variables())
