"""Rendered children, byte for byte; ``pytest … --update-golden`` writes the golden files.

A change of a golden file changes the objects in clusters: review the difference. The Jobs are those
of a revision whose trainer reads version 1 of the contract; other Jobs differ in their only
argument, of which the files ``requests`` have the values.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fakes.apiserver import Thing, copied
from tests.fakes.controllers import request_of
from tests.support.rendered import SETS, children, template

from finetune_api.revision_hash import text_digest
from finetune_operator.config import Settings
from finetune_operator.manifests import argv_v1
from finetune_operator.objects import naming

GOLDEN = Path(__file__).parent / "golden"
MERGED = (
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
"""Titles of the children of a job with one replica of a merged model."""
ADAPTER = tuple(sorted({*MERGED, "budget"} - {"job-merge"}))
FILES: dict[str, tuple[str, ...]] = {
    "minimal": MERGED,
    "maximal": MERGED,
    "adapter": ("budget", "deployment", "job-prepare", "volume"),
}
"""Titles of the children with a golden file, by set. Of ``adapter``, only the objects that depend
on the serving mode and on the number of replicas have one."""


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


def rendered(name: str, spec: Thing, config: Settings) -> dict[str, str]:
    """Return the text of each golden file of a set, by its title, and of the requests.

    Only ``configuration`` has the real digests: a new field of the spec changes no other file.
    """
    made = children(spec, config)
    texts = {title: shown(in_version_1(made[title])) for title in FILES[name]}
    texts["requests"] = shown(
        {
            title: json.loads(template(made[title])["spec"]["containers"][0]["args"][0])
            for title in FILES[name]
            if title.startswith("job-")
        }
    )
    document = made["configuration"]["data"]["job.json"]
    fixed = {
        json.loads(document)["digest"]: "f1" * 32,
        made["configuration"]["metadata"]["labels"][naming.REVISION]: "f1" * 4,
        made["deployment"]["metadata"]["labels"][naming.BUILD]: "b2" * 4,
        text_digest(document): "c3" * 32,
    }
    for title in texts.keys() - {"configuration"}:
        for digest, replacement in fixed.items():
            texts[title] = texts[title].replace(digest, replacement)
    return texts


@pytest.mark.parametrize("name", SETS)
def test_no_other_children_are_created(name: str) -> None:
    assert sorted(children(*SETS[name])) == list(ADAPTER if name == "adapter" else MERGED)


@pytest.mark.parametrize("name", FILES)
def test_children_equal_their_golden_files(name: str, request: pytest.FixtureRequest) -> None:
    for title, text in rendered(name, *SETS[name]).items():
        path = GOLDEN / f"{name}-{title}.yaml"
        if request.config.getoption("--update-golden", default=False):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), path.name


def test_golden_files_are_plain_yaml() -> None:
    made = children(*SETS["maximal"])
    for thing in made.values():
        assert yaml.safe_load(shown(thing)) == json.loads(json.dumps(thing))


@pytest.mark.parametrize("name", FILES)
def test_a_changed_recipe_changes_only_the_golden_configuration(name: str) -> None:
    spec, config = SETS[name]
    before = rendered(name, spec, config)
    training = {**spec.get("training", {}), "learningRate": 0.5}
    after = rendered(name, {**spec, "training": training}, config)
    changed = {title for title in before if before[title] != after[title]}
    assert changed == {"configuration"} & set(FILES[name])


def test_every_golden_file_belongs_to_a_child() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {
        f"{name}-{title}" for name, titles in FILES.items() for title in (*titles, "requests")
    }
