"""Every job in README, docs and examples works with the default chart and the default image."""

import re

import pytest
import yaml
from tests.unit.docs.links import ROOT
from tests.unit.docs.test_manifests import MANIFESTS, documents

from finetune_api.defaulting import effective_defaults, resolve
from finetune_trainer.compatibility import backend_choice
from finetune_trainer.compatibility.backend_choice import TRL, Facts
from finetune_trainer.devices import capabilities, cards
from finetune_trainer.estimate.suggestions import PRODUCT_LABEL
from release.files import first_job, first_job_file

CONSTRAINTS = (ROOT / "constraints/trainer.txt").read_text()
CHART = yaml.safe_load((ROOT / "charts/finetune-operator/values.yaml").read_text())
JOBS = {place: spec for place, spec, whole in MANIFESTS if whole}
DEFAULT_IMAGE = dict(re.findall(r"^(trl|unsloth)==(\S+)", CONSTRAINTS, re.MULTILINE))


def test_default_image_contains_neither_unsloth_nor_flash_attention() -> None:
    dockerfile = (ROOT / "Dockerfile.trainer").read_text()
    assert 'ARG UNSLOTH=""\n' in dockerfile
    assert DEFAULT_IMAGE.keys() == {TRL}
    assert not re.search("^flash.attn", CONSTRAINTS, re.MULTILINE)


def test_pages_and_examples_contain_jobs() -> None:
    assert "README.md#0" in JOBS
    # A file may contain several jobs.
    examples = {place.partition("#")[0] for place in JOBS if place.startswith("examples/")}
    files = {f"examples/{path.name}" for path in ROOT.glob("examples/*.yaml")}
    assert files - examples == {"examples/profiles.yaml"}


def test_first_job_of_the_readme_is_that_of_the_commands() -> None:
    (job,) = documents(ROOT / "examples/first-job.yaml")
    first = next(iter(documents(ROOT / "README.md")))
    assert (first["metadata"], first["spec"]) == (job["metadata"], job["spec"])
    assert "tokenSecretRef" not in str(job)


def test_first_job_of_a_release_is_that_of_the_readme_with_its_rows() -> None:
    rows, job = yaml.safe_load_all(first_job(ROOT))
    assert job == next(iter(documents(ROOT / "README.md")))
    name, _, key = job["spec"]["dataset"]["source"].removeprefix("configmap://").partition("/")
    assert rows["metadata"]["name"] == name
    assert rows["data"] == {key: (ROOT / "examples/velmora-facts.jsonl").read_text()}


def test_file_of_a_release_says_how_it_differs_from_the_example_of_its_name() -> None:
    about, _, manifest = first_job_file(ROOT).partition("apiVersion")
    assert f"apiVersion{manifest}" == first_job(ROOT)
    assert all(line.startswith("# ") for line in about.splitlines())
    for name in re.findall(r"examples/\S+", about):
        assert (ROOT / name).is_file()
    assert "examples/first-job.yaml (the job alone)" in about


def test_notes_of_the_chart_contain_the_first_job_of_the_release() -> None:
    notes = (ROOT / "charts/finetune-operator/templates/NOTES.txt").read_text()
    assert f"\nkubectl apply -f - <<'EOF'\n{first_job(ROOT)}EOF\n" in notes


@pytest.mark.parametrize("place", JOBS)
def test_job_is_resolved_and_passes_the_checks_of_prepare(place: str) -> None:
    spec = resolve(JOBS[place], effective_defaults(CHART["defaults"])).spec
    chosen = backend_choice.choose(Facts(recipe=spec.training, image=DEFAULT_IMAGE))
    assert chosen.name == TRL
    label = (spec.placement.node_selector or {}).get(PRODUCT_LABEL)
    capabilities.check_ahead(spec.training, cards.find(label) if label else None)


@pytest.mark.parametrize("place", JOBS)
def test_only_a_job_about_a_backend_sets_one(place: str) -> None:
    advanced = JOBS[place].get("training", {}).get("advanced", {})
    assert "backend" not in advanced
