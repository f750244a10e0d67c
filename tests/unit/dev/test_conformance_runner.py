"""``make conformance``: which results it records, and which steps its summary contains."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from checks import environment, suites
from cluster import packages, phases
from cluster.artifacts import binaries
from cluster.errors import ClusterError
from conformance import components, pages, runner
from conformance.components import Component, Setup
from conformance.pages import Row

Prepare = Callable[[], Setup]
EARLIER = Row(component="fails", label="1", version="1.1", tests=7, seconds=8, cpu_seconds=9)


def setup() -> Setup:
    return Setup(version="1.1", python=(sys.executable,), variables={})


def built() -> Setup:
    with phases.phase("build it"):
        return setup()


def unavailable() -> Setup:
    raise ClusterError("no such version")


def recorded_titles() -> list[str]:
    return [row.title for row in pages.recorded()]


@pytest.fixture
def component(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Component]:
    """Adds a component, whose tests consist of this statement twice; nothing else is present."""
    for module in (packages, environment, binaries):
        monkeypatch.setattr(module, "ensure", lambda *_: None)
    monkeypatch.setattr(suites, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(suites, "outcomes", [])
    monkeypatch.setattr(components, "ALL", ())
    monkeypatch.setattr(pages, "RECORD", tmp_path / "results.json")
    monkeypatch.setattr(pages, "write", lambda: None)
    # Options of the outer session do not apply to the tests of a component.
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pages.RECORD.write_text(json.dumps([]))

    def add(name: str, prepare: Prepare, statement: str = "assert True") -> Component:
        tests = tmp_path / f"test_{name}.py"
        tests.write_text("".join(f"def test_{n}():\n    {statement}\n" for n in (1, 2)))
        added = Component(name=name, label="1", tests=(str(tests),), prepare=prepare)
        monkeypatch.setattr(components, "ALL", (*components.ALL, added))
        return added

    return add


def test_components_that_pass_are_recorded_although_others_fail(
    component: Callable[..., Component], capsys: pytest.CaptureFixture[str]
) -> None:
    component("new", built)
    component("missing", unavailable)
    component("fails", setup, "assert False")
    component("present", setup)
    pages.record([EARLIER])
    assert runner.run([]) == 1
    new, earlier, present = pages.recorded()
    assert earlier == EARLIER
    assert [new.title, present.title] == ["new 1", "present 1"]
    assert {(row.version, row.tests) for row in (new, present)} == {("1.1", 2)}
    assert new.build_seconds > 0
    assert present.build_seconds == 0
    assert [(each.name, each.ok) for each in suites.outcomes] == [
        ("build new 1", True),
        ("new 1", True),
        ("build missing 1", False),
        ("fails 1", False),
        ("present 1", True),
    ]
    printed = capsys.readouterr().out
    assert "[2/4] missing 1\n" in printed
    assert "4 passed, 3 failed" in printed


def test_a_result_is_recorded_before_the_next_component(
    component: Callable[..., Component],
) -> None:
    known: list[str] = []

    def prepare() -> Setup:
        known.extend(recorded_titles())
        return setup()

    component("first", setup)
    component("second", prepare)
    assert runner.run([]) == 0
    assert known == ["first 1"]
    assert recorded_titles() == ["first 1", "second 1"]


def test_only_the_selected_components_are_tested(component: Callable[..., Component]) -> None:
    component("first", setup)
    component("second", unavailable)
    assert runner.run(["first 1"]) == 0
    assert recorded_titles() == ["first 1"]
