"""Every child, byte for byte: ``pytest tests/unit/operator/manifests --update-golden`` writes them.

A change of these files is a change of what runs in clusters. Read the difference before you
commit it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fakes.apiserver import Thing
from tests.unit.operator.manifests.rendered import SETS, children

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
    """Return what a set of children has: only that of an adapter has replicas, and no merge."""
    missing = "job-merge" if name == "adapter" else "budget"
    return [title for title in TITLES if title != missing]


def shown(thing: Thing) -> str:
    return yaml.dump(thing, Dumper=Dumper, sort_keys=False, width=10_000)


@pytest.mark.parametrize("name", SETS)
def test_children_are_those_of_the_golden_files(name: str, request: pytest.FixtureRequest) -> None:
    made = children(*SETS[name])
    assert sorted(made) == titles(name)
    if request.config.getoption("--update-golden", default=False):
        GOLDEN.mkdir(exist_ok=True)
        for title, thing in made.items():
            (GOLDEN / f"{name}-{title}.yaml").write_text(shown(thing), encoding="utf-8")
    for title, thing in made.items():
        golden = (GOLDEN / f"{name}-{title}.yaml").read_text(encoding="utf-8")
        assert shown(thing) == golden, f"{name}-{title}.yaml"
        assert yaml.safe_load(golden) == json.loads(json.dumps(thing)), "nothing but plain YAML"


def test_no_golden_file_is_left_over() -> None:
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted(
        f"{name}-{title}" for name in SETS for title in titles(name)
    )
