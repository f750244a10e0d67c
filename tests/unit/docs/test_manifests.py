"""The manifests in README, docs and examples are valid, in whole or as the part that they show."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.markdown import blocks
from tests.unit.docs.links import ROOT, pages

from finetune_api.v1alpha1.spec import FineTuneJobSpec

CRD = yaml.safe_load((ROOT / "crds" / "finetune.dev_finetunejobs.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def documents(path: Path) -> Iterator[Any]:
    """Yield the YAML documents of a file: those of the code blocks of a page."""
    text = path.read_text(encoding="utf-8")
    for block in blocks(text, "yaml") if path.suffix == ".md" else [text]:
        yield from yaml.safe_load_all(block)


def found() -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield place, spec, and whether the spec is complete, of each FineTuneJob."""
    for path in [*pages(), *sorted(ROOT.glob("examples/*.yaml"))]:
        for number, document in enumerate(documents(path)):
            place = f"{path.relative_to(ROOT)}#{number}"
            if "kind" in document:
                if document["kind"] == "FineTuneJob":
                    yield place, document["spec"], True
            elif document.keys() == {"spec"} and "ignoreDifferences" not in document["spec"]:
                yield place, document["spec"], False
            elif document.keys() <= SCHEMA["properties"].keys():
                yield place, document, False


MANIFESTS = list(found())


def unknown(value: Any, schema: dict[str, Any], path: str = "spec") -> list[str]:
    """Return the fields that the schema does not have."""
    if isinstance(value, list):
        return [name for each in value for name in unknown(each, schema["items"], f"{path}[]")]
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    extra = [f"{path}.{name}" for name in value.keys() - schema["properties"].keys()]
    for name in value.keys() & schema["properties"].keys():
        extra += unknown(value[name], schema["properties"][name], f"{path}.{name}")
    return extra


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, id=place) for place, spec, whole in MANIFESTS if whole]
)
def test_a_complete_manifest_is_valid(spec: dict[str, Any]) -> None:
    FineTuneJobSpec.model_validate(spec)
    assert unknown(spec, SCHEMA) == []


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, id=place) for place, spec, whole in MANIFESTS if not whole]
)
def test_a_part_of_a_manifest_has_known_fields(spec: dict[str, Any]) -> None:
    assert unknown(spec, SCHEMA) == []


def test_unknown_fields_are_found() -> None:
    spec = {"model": {"sauce": "x"}, "placement": {"tolerations": [{"kee": "a"}]}, "stage": {}}
    assert sorted(unknown(spec, SCHEMA)) == [
        "spec.model.sauce",
        "spec.placement.tolerations[].kee",
        "spec.stage",
    ]


@pytest.mark.parametrize(
    "page", ["charts/finetune-operator/README.md", "docs/getting-started/installation.md"]
)
def test_uninstallation_deletes_all_crds(page: str) -> None:
    (command,) = re.findall(r"^kubectl delete crd (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    present = {path.stem.partition("_")[2] for path in (ROOT / "crds").glob("finetune.dev_*.yaml")}
    assert set(command.split()) == {f"{name}.finetune.dev" for name in present}
