"""Chart.yaml: the facts that package indexes such as Artifact Hub show."""

import tomllib
from pathlib import Path
from typing import Any

import yaml
from tests.support.helm import CHART

from finetune_api.crd.resources import RESOURCES
from finetune_api.defaulting import effective_defaults, resolve

ROOT = Path(__file__).parents[2]
METADATA: dict[str, Any] = yaml.safe_load((CHART / "Chart.yaml").read_text())
ANNOTATIONS: dict[str, str] = METADATA["annotations"]


def test_versions_equal_the_version_of_the_project() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert (METADATA["version"], METADATA["appVersion"]) == (version, version)


def test_icon_is_a_file_of_the_documentation() -> None:
    site, _, path = METADATA["icon"].partition("/assets/")
    assert site == METADATA["home"]
    assert (ROOT / "docs/assets" / path).read_text().startswith("<svg ")


def test_annotated_crds_are_the_generated_ones() -> None:
    annotated = yaml.safe_load(ANNOTATIONS["artifacthub.io/crds"])
    for listed, resource in zip(annotated, RESOURCES, strict=True):
        crd = yaml.safe_load((CHART / "files" / resource.file).read_text())
        assert listed["name"] == crd["metadata"]["name"]
        assert listed["kind"] == crd["spec"]["names"]["kind"]
        assert listed["version"] in [version["name"] for version in crd["spec"]["versions"]]


def test_annotated_example_is_a_valid_job() -> None:
    (example,) = yaml.safe_load(ANNOTATIONS["artifacthub.io/crdsExamples"])
    assert (example["apiVersion"], example["kind"]) == ("finetune.dev/v1alpha1", "FineTuneJob")
    assert resolve(example["spec"], effective_defaults({})).spec.model.source == "hf://org/model"
