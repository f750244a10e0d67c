"""Signed statements: a target is complete with the statement about what it holds."""

import json
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import SPEC, Cluster, Thing
from tests.unit.operator.reconcile.publishing.test_plan_publishing import (
    NOT_MERGED,
    OPEN,
    condition,
    jobs,
    names,
    served,
    target,
    trained,
)
from tests.unit.operator.test_signing import PEM

from finetune_api.contracts.provenance import attestation, file_list
from finetune_api.contracts.provenance.attestation import Statement
from finetune_api.contracts.publish_targets import PublishTargetRequest
from finetune_api.v1alpha1.publishing.targets import MAX_TARGETS
from finetune_operator.manifests.publishing.access import MOST_OWN
from finetune_operator.provenance import signed
from finetune_operator.signing import SigningKey

SIGNS = OPEN.model_copy(update={"signing_key": SigningKey(PEM)})


def signing(*targets: Thing, config: Any = SIGNS, **spec: Any) -> Cluster:
    """Return a job whose training has completed under an operator with a signing key."""
    cluster = Cluster(spec={**SPEC, "publish": list(targets), **NOT_MERGED, **spec}, config=config)
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()
    return cluster


def requests(cluster: Cluster) -> dict[str, PublishTargetRequest]:
    """Return the requests of the newest publish Job by target."""
    return {each.name: each for each in controllers.request_of(jobs(cluster)[-1]).targets}


def statement_of(request: PublishTargetRequest) -> Statement:
    assert request.attestation is not None
    return attestation.statement(attestation.opened(request.attestation.encode()).payload)


def record(cluster: Cluster) -> Thing:
    (found,) = cluster.status["revisions"][-1]["published"]
    published: Thing = found
    return published


def test_the_second_attempt_adds_the_statement_about_the_published_digest() -> None:
    cluster = signing(target())
    assert requests(cluster)["a"].attestation is None
    controllers.publish(cluster)
    digest = record(cluster)["digest"]
    assert record(cluster)["attestationDue"] is True
    assert condition(cluster)["status"] == "Unknown"
    assert condition(cluster, "Finished")["status"] == "False"
    request = requests(cluster)["a"]
    assert request.attested == digest
    subject = statement_of(request)["subject"][0]
    assert subject["digest"]["sha256"] == digest.removeprefix("sha256:")
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert condition(cluster, "Finished")["status"] == "True"
    assert "attestationDue" not in record(cluster)
    assert len(record(cluster)["attestation"]) == 64
    assert record(cluster)["digest"] == digest
    assert record(cluster)["bytes"] == 1000
    before = len(jobs(cluster))
    cluster.settle()
    assert len(jobs(cluster)) == before


def test_without_a_key_nothing_is_signed() -> None:
    cluster = trained(target())
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert len(jobs(cluster)) == 1
    assert "attestationDue" not in record(cluster)


def test_a_key_that_is_set_later_publishes_no_finished_job_again() -> None:
    cluster = trained(target())
    controllers.publish(cluster)
    cluster.config = SIGNS
    cluster.settle()
    assert condition(cluster)["status"] == "True"
    assert len(jobs(cluster)) == 1


def test_without_its_key_the_operator_waits_for_no_statement() -> None:
    cluster = signing(target())
    controllers.sync(cluster)
    pod = controllers.pod_of_stage(cluster, "publish")
    controllers.start(cluster, pod)
    cluster.config = OPEN
    cluster.settle()
    text = controllers.message("publish", "completed", artifacts=controllers.published(pod))
    controllers.finish(cluster, pod, 0, text)
    controllers.sync(cluster)
    cluster.settle()
    assert condition(cluster)["status"] == "True"


def test_an_attempt_that_adds_no_statement_has_failed() -> None:
    cluster = signing(target())
    controllers.publish(cluster)
    digest = record(cluster)["digest"]
    forged = {"targets": [{"name": "a", "digest": digest}]}
    controllers.publish(cluster, text=controllers.message("publish", "completed", artifacts=forged))
    assert condition(cluster)["status"] == "False"
    assert record(cluster)["attestationDue"] is True
    assert record(cluster)["digest"] == digest
    assert len(jobs(cluster)) == 2
    cluster.settle()
    assert len(jobs(cluster)) == 2


def test_a_statement_about_another_digest_does_not_count() -> None:
    cluster = signing(target())
    controllers.publish(cluster)
    digest = record(cluster)["digest"]
    forged = {"targets": [{"name": "a", "digest": "sha256:" + "0" * 64, "attestation": "1" * 64}]}
    controllers.publish(cluster, text=controllers.message("publish", "completed", artifacts=forged))
    assert condition(cluster)["status"] == "False"
    assert record(cluster)["digest"] == digest
    assert "attestation" not in record(cluster)


def test_a_statement_before_the_content_does_not_count() -> None:
    cluster = signing(target())
    digest = "sha256:" + "2" * 64
    early = {"targets": [{"name": "a", "digest": digest, "attestation": "1" * 64}]}
    controllers.publish(cluster, text=controllers.message("publish", "completed", artifacts=early))
    assert record(cluster)["attestationDue"] is True
    assert "attestation" not in record(cluster)


def test_a_target_that_failed_is_published_and_then_signed() -> None:
    cluster = signing(target("a"), target("b"))
    controllers.publish(cluster, "b")
    assert condition(cluster)["status"] != "True"
    found = {each["name"]: each for each in cluster.status["revisions"][-1]["published"]}
    assert found["a"]["attestationDue"] is True
    assert "digest" not in found["b"]


@pytest.mark.parametrize("what", ["adapter", "merged"])
def test_the_statement_has_the_evidence_about_the_served_build(what: str) -> None:
    cluster = served(target(what=what), outcome="Verified")
    cluster.config = SIGNS
    controllers.publish(cluster)
    assert names(cluster) == ["a"]
    details = statement_of(requests(cluster)["a"])["predicate"]["runDetails"]
    evidence = {each["name"]: each.get("annotations") for each in details["byproducts"]}
    assert evidence["verification"]["outcome"] == "Verified"
    assert evidence["verification"]["build"] == cluster.status["build"]
    assert evidence["evaluation"]["verdict"]["outcome"] == "NotEvaluated"


def test_the_key_is_in_no_object_and_no_status() -> None:
    cluster = signing(target())
    controllers.publish(cluster)
    controllers.publish(cluster)
    text = json.dumps([*cluster.objects.values(), cluster.job])
    secret = [line for line in PEM.decode().splitlines() if "-----" not in line]
    assert not any(line in text for line in secret)


FULL = {"reason": "TargetRejected", "message": "The quota is exhausted."}
HUB = {"name": "a", "what": "adapter", "huggingFace": {"repo": "acme/support"}}


def test_hub_gets_the_model_and_the_statement_in_one_commit() -> None:
    """No commit can name itself, so the statement is about the list of files."""
    cluster = signing(HUB)
    first = requests(cluster)["a"]
    assert (first.attestation, first.attested) == (None, "")
    controllers.publish(cluster)
    manifest = record(cluster)["manifest"]
    assert record(cluster)["attestationDue"] is True
    assert "digest" not in record(cluster)
    assert condition(cluster)["status"] == "Unknown"
    assert "reference" not in cluster.status["publish"][0]
    request = requests(cluster)["a"]
    assert request.attested == f"sha256:{manifest}"
    about = statement_of(request)
    assert attestation.subjects(about) == {"hf://acme/support": manifest, "manifest.json": manifest}
    files = controllers.files_of(manifest)
    key = SigningKey(PEM)
    assert request.model_signature == signed.model_signature(files, key, on_hub=True)
    assert request.model_signature != signed.model_signature(files, key)
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    commit = record(cluster)["digest"]
    assert commit.startswith("sha1:")
    assert cluster.status["publishedDigests"] == [commit]
    assert cluster.status["publish"][0]["reference"] == f"hf://acme/support@{commit[5:]}"
    assert record(cluster)["tags"] == ["main"]
    assert not {"files", "attestationDue"} & record(cluster).keys()
    assert len(record(cluster)["attestation"]) == 64
    cluster.settle()
    assert len(jobs(cluster)) == 2


def test_another_branch_of_a_hub_gets_a_statement_of_its_own() -> None:
    cluster = signing(HUB)
    controllers.publish(cluster)
    controllers.publish(cluster)
    commit = record(cluster)["digest"]
    cluster.edit(publish=[{**HUB, "huggingFace": {"repo": "acme/support", "branch": "tuned"}}])
    cluster.settle()
    assert requests(cluster)["a"].attested == ""
    controllers.publish(cluster)
    request = requests(cluster)["a"]
    assert request.attestation is not None
    assert request.own == (commit,)
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert record(cluster)["tags"] == ["tuned"]


def test_the_model_on_a_hub_is_known_while_another_branch_gets_it() -> None:
    """Listing the files does not remove what an earlier attempt has published."""
    cluster = signing(HUB)
    controllers.publish(cluster)
    controllers.publish(cluster)
    before, shown = record(cluster), cluster.status["publish"][0]
    cluster.edit(publish=[{**HUB, "huggingFace": {"repo": "acme/support", "branch": "tuned"}}])
    cluster.settle()
    controllers.publish(cluster)
    assert record(cluster)["attestationDue"] is True
    known = ("digest", "manifest", "attestation", "tags", "bytes", "time")
    assert {name: record(cluster)[name] for name in known} == {name: before[name] for name in known}
    publish(cluster, {"targets": [{"name": "a", "error": FULL}]})
    assert condition(cluster)["status"] == "False"
    assert record(cluster)["digest"] == before["digest"]
    assert cluster.status["publish"][0]["reference"] == shown["reference"]


def test_a_listing_takes_no_branch_back_from_another_revision() -> None:
    """Without its key, the operator publishes again what a listing has only announced."""
    cluster = signing(HUB)
    controllers.publish(cluster)
    controllers.publish(cluster)
    cluster.edit(training={"seed": 7})
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    controllers.publish(cluster)
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    cluster.edit(training={"seed": None})
    cluster.settle()
    controllers.publish(cluster)
    cluster.config = OPEN
    cluster.settle()
    assert condition(cluster)["status"] == "Unknown"
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"


def test_the_commits_of_its_own_repository_are_those_that_a_branch_may_move_from() -> None:
    """The request has place for some digests only, and other repositories may have more of them."""
    names = [f"t{number}" for number in range(MAX_TARGETS)]
    targets = [{**HUB, "name": name, "huggingFace": {"repo": f"acme/{name}"}} for name in names]
    cluster = signing(*targets, revisionHistoryLimit=3)
    for seed in (1, 2, 3):
        controllers.publish(cluster)
        manifest = str(requests(cluster)["t0"].attested).removeprefix("sha256:")
        held = {"manifest": manifest, "attestation": "1" * 64}
        commits = [f"sha1:{seed}{number:039}" for number in range(MAX_TARGETS)]
        done = [
            {"name": name, "digest": commit, **held}
            for name, commit in zip(names, commits, strict=True)
        ]
        publish(cluster, {"targets": done})
        assert condition(cluster)["status"] == "True"
        cluster.edit(training={"seed": seed})
        for stage in ("prepare", "train"):
            controllers.run(cluster, stage)
    controllers.publish(cluster)
    for number, name in enumerate(names):
        own = requests(cluster)[name].own
        assert len(own) == MOST_OWN
        assert own[-3:] == tuple(f"sha1:{seed}{number:039}" for seed in (1, 2, 3))


def test_without_its_key_the_operator_publishes_a_listed_model_to_a_hub() -> None:
    cluster = signing(HUB)
    controllers.publish(cluster)
    publish(cluster, {"targets": [{"name": "a", "error": FULL}]})
    cluster.config = OPEN
    cluster.edit(publish=[{**HUB, "overwrite": True}])
    cluster.settle()
    request = requests(cluster)["a"]
    assert (request.attestation, request.attested) == (None, None)
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert "attestation" not in record(cluster)


def test_an_earlier_image_publishes_to_a_hub_without_a_statement() -> None:
    """It does not know that it should only list the files."""
    cluster = signing(HUB)
    publish(cluster, {"targets": [{"name": "a", "digest": f"sha1:{'2' * 40}"}]})
    assert condition(cluster)["status"] == "True"
    assert "attestationDue" not in record(cluster)
    assert len(jobs(cluster)) == 1


@pytest.mark.parametrize(
    "reported",
    [
        {},
        {"digest": f"sha1:{'2' * 40}"},
        {"digest": f"sha1:{'2' * 40}", "attestation": "1" * 64},
        {"digest": f"sha1:{'2' * 40}", "attestation": "1" * 64, "manifest": "3" * 64},
        {"attestation": "1" * 64, "manifest": "listed"},
        {"manifest": "listed"},
    ],
)
def test_a_commit_on_a_hub_without_the_statement_does_not_count(reported: Thing) -> None:
    cluster = signing(HUB)
    controllers.publish(cluster)
    manifest = record(cluster)["manifest"]
    known = {"manifest": manifest} if reported.get("manifest") == "listed" else {}
    publish(cluster, {"targets": [{"name": "a", **reported, **known}]})
    assert condition(cluster)["status"] == "False"
    assert record(cluster)["attestationDue"] is True
    assert record(cluster)["manifest"] == manifest
    assert "attestation" not in record(cluster)
    assert len(jobs(cluster)) == 2


def test_a_hub_without_a_list_of_files_gets_the_provenance_only() -> None:
    """The list of a folder with many files does not fit into the report of a pod."""
    cluster = signing(HUB)
    publish(cluster, {"targets": [{"name": "a", "manifest": "3" * 64}]})
    request = requests(cluster)["a"]
    assert request.attestation is not None
    assert request.model_signature is None


BUCKET = {"name": "a", "what": "adapter", "s3": {"uri": "s3://models/support"}}


def test_the_files_of_a_folder_are_signed_and_then_forgotten() -> None:
    cluster = signing(BUCKET)
    assert requests(cluster)["a"].model_signature is None
    controllers.publish(cluster)
    digest = record(cluster)["digest"].removeprefix("sha256:")
    files = controllers.files_of(digest)
    assert file_list.unpack(record(cluster)["files"]) == files
    request = requests(cluster)["a"]
    assert request.model_signature == signed.model_signature(files, SigningKey(PEM))
    assert {*attestation.subjects(statement_of(request)).values()} == {digest}
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert "files" not in record(cluster)


def test_the_files_of_an_image_are_not_signed() -> None:
    """A tenant chooses the bytes of some, which could be the manifest of another image."""
    cluster = signing(target())
    digest, manifest = "sha256:" + "2" * 64, "3" * 64
    only = {"name": "a", "digest": digest, "manifest": manifest}
    files = controllers.files_of(manifest)
    reported = {"targets": [only], "files": {manifest: file_list.pack(files)}}
    publish(cluster, reported)
    assert "files" not in record(cluster)
    request = requests(cluster)["a"]
    assert request.model_signature is None
    assert {*attestation.subjects(statement_of(request)).values()} == {digest[7:], manifest}


@pytest.mark.parametrize(
    ("entry", "config", "expected"),
    [(BUCKET, SIGNS, True), (HUB, SIGNS, False), (BUCKET, OPEN, False)],
)
def test_only_a_bucket_needs_the_public_key(entry: Thing, config: Any, expected: bool) -> None:
    """There, the pod recognizes a statement that an earlier attempt has written."""
    cluster = signing(entry, config=config)
    (container,) = jobs(cluster)[-1]["spec"]["template"]["spec"]["containers"]
    values = [
        each["value"] for each in container["env"] if each["name"] == attestation.KEY_VARIABLE
    ]
    assert values == ([SigningKey(PEM).public_key.decode()] if expected else [])


OTHER = "4" * 64


@pytest.mark.parametrize(
    "files",
    [
        None,
        {},
        {OTHER: file_list.pack({"manifest.json": OTHER})},
        {"3" * 64: "no list"},
        {"3" * 64: file_list.pack({"manifest.json": OTHER})},
        {"3" * 64: file_list.pack({"config.json": "3" * 64})},
        {"no digest": file_list.pack({"manifest.json": OTHER})},
        ["a list"],
    ],
)
def test_files_that_are_not_those_of_the_content_are_not_signed(files: Any) -> None:
    cluster = signing(BUCKET)
    only = {"name": "a", "digest": "sha256:" + "3" * 64, "manifest": "3" * 64}
    publish(cluster, {"targets": [only], "files": files})
    assert "files" not in record(cluster)
    request = requests(cluster)["a"]
    assert request.attestation is not None
    assert request.model_signature is None


def test_files_without_a_key_are_not_kept() -> None:
    cluster = trained(BUCKET)
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert "files" not in record(cluster)


def publish(cluster: Cluster, artifacts: Thing) -> None:
    text = controllers.message("publish", "completed", artifacts=artifacts)
    controllers.publish(cluster, text=text)
