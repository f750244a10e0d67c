"""Rendered children, byte for byte; ``pytest … --update-golden`` writes the golden files.

A change of a golden file changes the objects in clusters: review the difference. The Jobs are those
of a revision whose trainer reads version 1 of the contract; other Jobs differ in their only
argument, of which ``requests.yaml`` has the values.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fakes.apiserver import Thing, copied
from tests.fakes.controllers import request_of
from tests.support.rendered import SETS, children, template

from finetune_operator.manifests import argv_v1

GOLDEN = Path(__file__).parent / "golden"
TITLES = (
    "budget",
    "configuration",
    "deployment",
    "job-merge",
    "job-prepare",
    "job-train",
    "policy-prepare",
    "policy-serve",
    "policy-work",
    "service",
    "volume",
)


class Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, lists indented, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: Dumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


Dumper.add_representer(str, _text)


def titles(name: str) -> list[str]:
    """Return the titles of a set: only ``adapter`` has several replicas, and no merge."""
    missing = "job-merge" if name == "adapter" else "budget"
    return [title for title in TITLES if title != missing]


def in_version_1(thing: Thing) -> Thing:
    """Return a Job with the arguments of version 1; another object as it is."""
    if thing["kind"] != "Job":
        return thing
    old: Thing = copied(thing)
    request = request_of(thing)
    template(old)["spec"]["containers"][0]["args"] = argv_v1.words(request)
    return old


def shown(thing: Thing) -> str:
    return yaml.dump(thing, Dumper=Dumper, sort_keys=False, width=10_000)


@pytest.mark.parametrize("name", SETS)
def test_children_equal_their_golden_files(name: str, request: pytest.FixtureRequest) -> None:
    made = {title: in_version_1(thing) for title, thing in children(*SETS[name]).items()}
    assert sorted(made) == titles(name)
    if request.config.getoption("--update-golden", default=False):
        GOLDEN.mkdir(exist_ok=True)
        for title, thing in made.items():
            (GOLDEN / f"{name}-{title}.yaml").write_text(shown(thing), encoding="utf-8")
    for title, thing in made.items():
        golden = (GOLDEN / f"{name}-{title}.yaml").read_text(encoding="utf-8")
        assert shown(thing) == golden, f"{name}-{title}.yaml"
        assert yaml.safe_load(golden) == json.loads(json.dumps(thing)), "plain YAML only"


def test_requests_equal_their_golden_file(request: pytest.FixtureRequest) -> None:
    made = {
        f"{name}-{title}": json.loads(template(thing)["spec"]["containers"][0]["args"][0])
        for name in SETS
        for title, thing in children(*SETS[name]).items()
        if thing["kind"] == "Job"
    }
    path = GOLDEN / "requests.yaml"
    if request.config.getoption("--update-golden", default=False):
        path.write_text(shown(made), encoding="utf-8")
    assert shown(made) == path.read_text(encoding="utf-8")


def test_every_golden_file_belongs_to_a_child() -> None:
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted(
        ["requests", *(f"{name}-{title}" for name in SETS for title in titles(name))]
    )
