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
import uuid

from checks import environment, lanes, suites
from cluster import cli, lifecycle, packages, paths, phases
from cluster.artifacts import binaries, images
from cluster.errors import ClusterError
from cluster.host import cgroups
from cluster.phases import phase

API_SERVER = {
    "chart": binaries.ASSETS,
    "gitops": binaries.ASSETS,
    "integration": binaries.ASSETS,
    "kueue": (*binaries.ASSETS, binaries.KUEUE),
}
"""Suites and their requirements. Kueue is last, so that no other suite waits for its build."""
E2E = (
    ("closed_namespace", "data_formats", "failures", "training", "serving"),
    ("quickstart", "tenants", "trainer_image"),
)
"""Files of the end-to-end tests by lane. The last test of ``serving`` needs the only GPU, which the
second lane releases at the end of ``quickstart`` (tests/support/local_cluster/locks.py)."""
RUN = uuid.uuid4().hex[:12]
"""The id of this run in the label of its namespaces; namespaces of other runs are leftovers."""
KERNELS = "tests/trainer/training/test_compiled_kernels.py"
"""Compiles the Triton kernels of a training for each GPU architecture."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Variables of processes that share the cores; spinning threads would slow down each other."""
GO_COLLECTOR = {"GOGC": "400"}
"""Variable of the Go programs, which then collect garbage less often: CPU time limits a test run,
memory does not. The API server of the integration tests needs a tenth less CPU time."""
SEARCHED = ("unit", "integration", "trainer", "security")
"""Suites whose variants ``make search`` runs; those of the end-to-end tests need a cluster."""
SEARCH_PROFILE = "--hypothesis-profile=search"
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
    phases.side_by_side(_unit, _check, lanes=_cores())
    return suites.summary()


def _cores() -> int:
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
        # The last suite removes the cluster.
        lambda: suites.pytest("cluster", ["tests/cluster"]),
    ]
    second.works = [
        second.waiting(build.ended.wait),
        second_end_to_end,
        _integration,
    ]
    server = lanes.Lane(name="API server", works=[_api_server])
    computing = [
        lanes.Lane(name="computing 1", works=[_background_check, _repeatable_unit, _trainer]),
        lanes.Lane(name="computing 2", works=[_security, _package, _trainer]),
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


def search() -> int:
    """Search for examples that break a law or a property, and run the exhaustive variants.

    The random histories and the other examples of Hypothesis differ between runs.
    """
    packages.ensure()
    environment.ensure()
    suites.begin()
    searches = [functools.partial(_search, suite) for suite in SEARCHED]
    phases.side_by_side(_histories, *searches, lanes=_cores())
    return suites.summary()


def _histories() -> None:
    place = "tests/unit/operator/reconcile/test_random_histories.py"
    suites.pytest("histories", [place], background=False, PYTEST_ADDOPTS=SEARCH_PROFILE)


def _search(suite: str) -> None:
    """Run the tests of a suite that have variants or examples."""
    needed = API_SERVER.get(suite)
    assets = {"KUBEBUILDER_ASSETS": str(binaries.ensure(*needed))} if needed else {}
    options = f"{SEARCH_PROFILE} -m 'exhaustive or hypothesis'"
    variables = {**ONE_THREAD, **assets, "PYTEST_ADDOPTS": options}
    suites.pytest(f"{suite}-search", [f"tests/{suite}"], background=False, **variables)


def variants() -> int:
    """Run the exhaustive variants of the end-to-end tests, and compile all Triton kernels."""
    packages.ensure()
    environment.ensure()
    suites.begin()
    suites.pytest("kernels", [KERNELS], background=False, PYTEST_ADDOPTS="-m exhaustive")
    build = Build()
    build.start_cluster()
    if build.error is None:
        variables = {**_on_cluster(), "PYTEST_ADDOPTS": "-m exhaustive"}
        suites.pytest("e2e-variants", ["tests/e2e"], background=False, **variables)
    else:
        suites.failed_outside("e2e-variants", build.error)
    return suites.summary()


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


class Build:
    """Builds all missing binaries and images, and starts the cluster.

    ended: set at the end, even after an error. error: the reason why there is no cluster, or None.
    """

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: ClusterError | None = None

    def run(self) -> None:
        """Build and start the cluster; the node pulls the images in parallel."""
        try:
            # Build first what tests wait for.
            binaries.ensure(*binaries.ASSETS)
            binaries.ensure(*binaries.CLUSTER)
            images.ensure(*images.ALL.values())
            _start_cluster()
        except ClusterError as error:
            self.error = error
        finally:
            self.ended.set()

    def start_cluster(self) -> None:
        """Start the cluster with the operator of this checkout."""
        try:
            _start_cluster()
        except ClusterError as error:
            self.error = error


def _start_cluster() -> None:
    lifecycle.up()
    cli.install_here()
    cgroups.prefer()


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
        known = {f"test_{name}.py" for names in E2E for name in names}
        others = sorted((paths.REPO / "tests" / "e2e").glob("test_*.py"))
        files += [f"tests/e2e/{each.name}" for each in others if each.name not in known]
    suites.pytest(name, files, background=False, **_on_cluster())


def _on_cluster() -> dict[str, str]:
    """Return the environment variables of the end-to-end tests."""
    return {
        "KUBECONFIG": str(paths.KUBECONFIG),
        "KUBEBUILDER_ASSETS": str(binaries.folder()),
        "FINETUNE_E2E_RUN": RUN,
    }
