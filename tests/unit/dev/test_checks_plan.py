"""``make test``: a build that only one suite needs fails that suite alone."""

import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from tests import conftest

from checks import environment, exhaustive, local_cluster, plan, suites
from cluster import packages, paths
from cluster.artifacts import binaries, images
from cluster.errors import ClusterError


def test_where_kueue_cannot_be_built_only_its_own_suite_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    did: list[str] = []

    def ensure(*groups: binaries.Group) -> Path:
        if binaries.KUEUE in groups:
            raise ClusterError("the Go module proxy must be reachable")
        return tmp_path

    monkeypatch.setattr(binaries, "ensure", ensure)
    monkeypatch.setattr(images, "ensure", lambda *_: did.append("images"))
    monkeypatch.setattr(local_cluster, "_start_cluster", lambda: did.append("cluster"))
    monkeypatch.setattr(suites, "pytest", lambda name, *_, **__: did.append(name))
    monkeypatch.setattr(suites, "RESULTS", tmp_path)
    monkeypatch.setattr(suites, "outcomes", [])
    build = local_cluster.Build()
    build.run()
    assert build.ended.is_set()
    assert build.error is None
    plan._api_server()
    assert did == ["images", "cluster", "chart", "gitops", "integration-1"]
    assert [outcome.name for outcome in suites.outcomes] == ["kueue"]


def test_without_a_cluster_both_end_to_end_lanes_fail_and_nothing_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ensure(*_: binaries.Group) -> Path:
        raise ClusterError("no Go")

    monkeypatch.setattr(binaries, "ensure", ensure)
    monkeypatch.setattr(suites, "RESULTS", tmp_path)
    monkeypatch.setattr(suites, "outcomes", [])
    build = local_cluster.Build()
    build.run()
    assert build.ended.is_set()
    for lane in (0, 1):
        plan._end_to_end(lane, build)
    assert [(each.name, each.ok) for each in suites.outcomes] == [
        ("e2e-1", False),
        ("e2e-2", False),
    ]


def test_every_end_to_end_file_is_in_one_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(suites, "pytest", lambda _, places, **__: ran.extend(places))
    for lane in range(len(plan.E2E)):
        plan._end_to_end(lane, local_cluster.Build())
    files = (paths.REPO / "tests" / "e2e").glob("test_*.py")
    assert sorted(ran) == sorted(str(each.relative_to(paths.REPO)) for each in files)


def test_every_variant_is_run_by_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """``make search`` runs the variants of its suites, ``make conformance`` those on a cluster."""
    ran: dict[str, str] = {}

    def pytest_(_: str, places: list[str], *, PYTEST_ADDOPTS: str, **__: object) -> None:
        ran.update(dict.fromkeys(places, PYTEST_ADDOPTS))

    for module in (environment, packages):
        monkeypatch.setattr(module, "ensure", lambda: None)
    for name in ("begin", "remember_durations", "slowest", "summary"):
        monkeypatch.setattr(suites, name, lambda: 0)
    monkeypatch.setattr(binaries, "ensure", lambda *_: paths.REPO)
    monkeypatch.setattr(local_cluster, "_start_cluster", lambda: None)
    monkeypatch.setattr(suites, "pytest", pytest_)
    assert exhaustive.search() == exhaustive.variants() == 0
    marked = {
        f"tests/{file.relative_to(paths.REPO / 'tests').parts[0]}"
        for file in (paths.REPO / "tests").rglob("test_*.py")
        if re.search(r"\bmark\.exhaustive\b|\bvariants\(", file.read_text(encoding="utf-8"))
    }
    assert marked
    assert {place for place in marked if "exhaustive" not in ran.get(place, "")} == set()


def test_the_cpu_time_of_a_test_process_is_printed_with_its_suite() -> None:
    reporter = Mock()
    conftest.pytest_terminal_summary(reporter)
    (line,) = reporter.write_line.call_args.args
    figure, last = suites._printed_figures(f"....\n{line}\n4 passed in 0.70s")
    assert re.fullmatch(r" +CPU time: \d+\.\d s, of which \d+\.\d s in child processes", figure)
    assert last == "4 passed in 0.70s"
