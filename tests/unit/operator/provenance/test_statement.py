"""The statement about a published model: its form, its content, and what it leaves out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.apiserver import CONFIG
from tests.support.published_facts import (
    COMMIT,
    JOB,
    SPEC,
    digest,
    facts,
    revision,
)
from tests.support.signing_keys import KEY

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.publish_targets import (
    HuggingFaceTarget,
    OCITarget,
    PublishTargetRequest,
)
from finetune_api.contracts.stage_request import PublishStageRequest
from finetune_api.defaulting import effective_defaults, resolve
from finetune_api.v1alpha1.data.statistics import Data
from finetune_api.v1alpha1.publishing.targets import MAX_TARGETS
from finetune_api.v1alpha1.status.artifacts import Artifacts
from finetune_api.v1alpha1.status.ledger import ParentAdapter, Revision
from finetune_operator.manifests import egress
from finetune_operator.manifests.publishing.access import MOST_OWN
from finetune_operator.provenance import signed
from finetune_operator.provenance.facts import Facts
from finetune_operator.provenance.statement import LONGEST, statement
from finetune_operator.revisions import parents
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import resolve_target

GOLDEN = Path(__file__).parent / "golden"


def about(name: str = "registry", **changes: Any) -> dict[str, Any]:
    return statement(facts(name, **changes))


def by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    assert len({each["name"] for each in entries}) == len(entries)
    return {each["name"]: each for each in entries}


@pytest.mark.parametrize("name", ["registry", "bucket"])
def test_the_statement_is_the_golden_one(name: str) -> None:
    """To accept a change, delete the file, run the test twice, and review the difference."""
    file = GOLDEN / f"{name}.json"
    text = json.dumps(about(name), indent=1, sort_keys=True) + "\n"
    if not file.exists():
        file.write_text(text)
        pytest.fail(f"{file} was missing and has been written")
    assert text == file.read_text()


def test_the_statement_is_one_that_a_reader_accepts() -> None:
    found = about()
    assert attestation.statement(attestation.canonical(found)) == found


def test_equal_facts_have_equal_statements() -> None:
    assert attestation.canonical(about()) == attestation.canonical(about())


def test_the_first_subject_is_the_content_of_the_target() -> None:
    image, folder = about()["subject"], about("bucket")["subject"]
    assert image[0] == {
        "name": "registry.example.com/m/support",
        "digest": {"sha256": digest("9")},
    }
    assert folder[0] == {
        "name": f"s3://models/support/sha256-{digest('9')}/",
        "digest": {"sha256": digest("9")},
    }
    assert image[1] == {"name": "manifest.json", "digest": {"sha256": digest("8")}}
    assert folder[1] == {"name": "manifest.json", "digest": {"sha256": digest("9")}}


def test_the_base_is_named_with_its_commit() -> None:
    base = by_name(about()["predicate"]["buildDefinition"]["resolvedDependencies"])["base"]
    assert base["uri"] == f"hf://org/base@{COMMIT}"
    assert base["digest"] == {"gitCommit": COMMIT}


def test_a_base_without_a_commit_has_the_digest_of_its_files() -> None:
    record = facts().record
    artifacts = record.artifacts.model_copy(update={"base_commit": f"sha256:{digest('7')}"})
    found = about(record=record.model_copy(update={"artifacts": artifacts}))
    base = by_name(found["predicate"]["buildDefinition"]["resolvedDependencies"])["base"]
    assert (base["uri"], base["digest"]) == ("hf://org/base", {"sha256": digest("7")})


def test_the_adapter_that_the_training_continued_from_is_named_with_its_digest() -> None:
    source = "oci://registry.example.com/a:v1"
    job = {**JOB, "spec": {**SPEC, "training": {"startFrom": {"source": source}}}}
    target = resolve_target(job, Ledger(), CONFIG)
    record = revision(target)
    known = {"start_commit": digest("7"), "start_digest": f"sha256:{digest('6')}"}
    artifacts = record.artifacts.model_copy(update=known)
    found = about(job=job, target=target, record=record.model_copy(update={"artifacts": artifacts}))
    inputs = by_name(found["predicate"]["buildDefinition"]["resolvedDependencies"])
    assert inputs["adapter to continue from"] == {
        "name": "adapter to continue from",
        "uri": source,
        "digest": {"sha256": digest("7")},
        "annotations": {"content": f"sha256:{digest('6')}"},
    }
    plain = about()["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert "adapter to continue from" not in by_name(plain)


def test_the_job_that_published_the_adapter_is_named() -> None:
    job = {**JOB, "spec": {**SPEC, "training": {"startFrom": {"job": {"name": "earlier"}}}}}
    source = f"oci://registry.example.com/a@sha256:{digest('7')}"
    parent = ParentAdapter(
        job="earlier",
        revision="0" * 8,
        revision_digest=digest("0"),
        source=source,
        digest=f"sha256:{digest('7')}",
    )
    resolved = resolve(job["spec"], effective_defaults(CONFIG.defaults))
    target = replace(
        resolve_target(JOB, Ledger(), CONFIG), resolved=parents.with_parent(resolved, parent)
    )
    found = about(job=job, target=target, record=revision(target))
    inputs = by_name(found["predicate"]["buildDefinition"]["resolvedDependencies"])
    assert inputs["adapter to continue from"]["uri"] == source
    assert inputs["adapter to continue from"]["annotations"] == {
        "job": "earlier",
        "revision": {"name": "0" * 8, "sha256": digest("0")},
        "published": f"sha256:{digest('7')}",
    }


def test_an_adapter_is_not_made_by_the_merge() -> None:
    image = by_name(about()["predicate"]["buildDefinition"]["resolvedDependencies"])
    folder = by_name(about("bucket")["predicate"]["buildDefinition"]["resolvedDependencies"])
    assert "image of the stage merge" in image
    assert "image of the stage merge" not in folder
    assert image["image of the stage train"] == {
        "name": "image of the stage train",
        "uri": "oci://r/trainer",
        "digest": {"sha256": digest("2")},
    }


def test_the_verification_of_another_build_is_no_evidence() -> None:
    other = {**facts().verification, "build": "another0"}
    found = by_name(about(verification=other)["predicate"]["runDetails"]["byproducts"])
    assert "verification" not in found
    assert by_name(about()["predicate"]["runDetails"]["byproducts"])["verification"][
        "annotations"
    ] == {
        "build": facts().target.build,
        "base": "dequantized",
        "image": f"r.example.com/vllm@sha256:{digest('4')}",
        "subject": {"sha256": digest("e")},
        "outcome": "Verified",
        "distance": "0.003",
        "tolerance": "0.01",
        "smallestFault": "0.04",
    }


def test_the_verification_of_a_merged_model_is_not_one_of_the_adapter_folder() -> None:
    found = by_name(about("bucket")["predicate"]["runDetails"]["byproducts"])
    assert found["verification"]["annotations"]["subject"] == {"sha256": digest("e")}
    assert found["adapter on the volume"]["digest"] == {"sha256": digest("d")}


def test_long_texts_and_credentials_of_the_job_are_left_out() -> None:
    text = attestation.canonical(about()).decode()
    assert "x" * 300 not in text
    assert "hf-model" not in text
    recipe = about()["predicate"]["buildDefinition"]["externalParameters"]["recipe"]
    template = SPEC["dataset"]["chatTemplate"]
    assert recipe["dataset"]["chatTemplate"]["characters"] == len(template)


def test_what_the_ledger_lacks_is_left_out() -> None:
    target = facts().target
    empty = Revision(revision=target.revision, frozen=target.frozen, artifacts=Artifacts())
    job = {"metadata": {"name": "support", "namespace": "team-a"}, "spec": SPEC}
    found = about(record=empty, job=job, gate={}, verification={})
    assert attestation.statement(attestation.canonical(found)) == found
    assert [each["name"] for each in found["predicate"]["runDetails"]["byproducts"]] == [
        "merged on the volume"
    ]

    def values(part: Any) -> list[Any]:
        if isinstance(part, dict):
            return [inner for each in part.values() for inner in values(each)] or [part]
        return [inner for each in part for inner in values(each)] if isinstance(part, list) else []

    assert None not in values(found["predicate"]["runDetails"])
    assert "gpuSeconds" not in attestation.canonical(found).decode()


LONG_MAPPING = {
    **{part: part[0] * 128 for part in ("role", "content")},
    "roles": {f"{number:02}" + "r" * 100: "user" for number in range(16)},
}


def of_many_datasets() -> Facts:
    """Return facts about a job whose lists and texts are as long as the API allows."""
    sources = [f"https://host/{number:02}" + "p" * 490 for number in range(16)]
    datasets = [
        {"name": f"dataset-{number:02}" + "n" * 14, "source": source, "sha256": digest("5")}
        | {"format": "messages", "mapping": LONG_MAPPING}
        for number, source in enumerate(sources)
    ]
    spec = {**SPEC, "datasets": datasets}
    del spec["dataset"]
    job = {**JOB, "spec": spec}
    target = resolve_target(job, Ledger(), CONFIG)
    record = revision(target)
    names = [f"datasets[{each['name']}]" for each in datasets]
    read = [
        {"dataset": name, "split": "train", "fileCount": 1, "files": ["f" * 60]} for name in names
    ]
    data = record.data.model_dump(mode="json", by_alias=True) | {"sources": read}
    record = record.model_copy(update={"data": Data.model_validate(data)})
    assert target.resolved.spec.publish
    place = target.resolved.spec.publish[0]
    return facts(job=job, target=target, record=record, place=place)


def test_a_statement_about_a_long_recipe_names_it_by_its_digest() -> None:
    found = of_many_datasets()
    about_it = statement(found)
    assert len(attestation.canonical(about_it)) <= LONGEST
    requested = about_it["predicate"]["buildDefinition"]["externalParameters"]
    assert requested["recipe"].keys() == {"sha256"}
    inputs = by_name(about_it["predicate"]["buildDefinition"]["resolvedDependencies"])
    dataset = inputs["datasets[dataset-00" + "n" * 14 + "]"]
    assert dataset["digest"] == {"sha256": digest("5")}
    assert dataset["uri"].startswith("urn:sha256:")
    assert (
        inputs["base"]
        == by_name(about()["predicate"]["buildDefinition"]["resolvedDependencies"])["base"]
    )


def test_a_statement_of_usual_length_has_the_whole_recipe() -> None:
    assert len(attestation.canonical(about())) < LONGEST - 2000
    assert "training" in about()["predicate"]["buildDefinition"]["externalParameters"]["recipe"]


REGISTRY = {
    "tags": tuple(f"{number}" + "t" * 120 for number in range(8)),
    "oci": OCITarget(repository="r" * 255),
}
HUB = {
    "own": tuple(f"sha1:{number:040}" for number in range(MOST_OWN)),
    "hugging_face": HuggingFaceTarget(repo="r" * 96, branch="b" * 100, endpoint="h" * 100),
}


@pytest.mark.parametrize("place", [REGISTRY, HUB], ids=["registry", "hub"])
def test_statements_of_all_targets_fit_into_one_argument(place: dict[str, Any]) -> None:
    """Linux limits an argument to 128 KiB. The administrator's settings need some of it."""
    longest = {**about(), "padding": ""}
    longest["padding"] = "p" * (LONGEST - len(attestation.canonical(longest)))
    assert len(attestation.canonical(longest)) == LONGEST
    bundle = json.dumps(signed.bundle(longest, KEY), sort_keys=True)
    target = PublishTargetRequest(
        name="n" * 40,
        what="merged",
        content=digest("1"),
        version="v" * 100,
        annotations={f"finetune.dev/{name}": "j" * 127 for name in ("job", "revision", "build")},
        attestation=bundle,
        attested=f"sha256:{digest('3')}",
        model_signature=signed.model_signature({"manifest.json": digest("3")}, KEY),
        **place,
    )
    request = PublishStageRequest(
        config="/etc/finetune/job.json",
        work="/work",
        targets=(target,) * MAX_TARGETS,
        destinations=egress.destinations(CONFIG, cloud_identity=True),
        ca_certificates="c" * (10 << 10),
    )
    assert len(request.to_argument()) < 128 << 10
