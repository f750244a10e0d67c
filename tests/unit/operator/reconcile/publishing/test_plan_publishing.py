"""Publishing beside the endpoint: when it starts, what it records, and what it never affects."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, SPEC, Cluster, Thing
from tests.fakes.controllers import request_of

from finetune_api.policy.limits import Limits, Names
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_operator.config import Settings
from finetune_operator.objects import naming
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Event

OPEN: Settings = CONFIG.model_copy(
    update={"policy": Limits(publish_destinations=Names(allow=(".*",)))}
)
REGISTRY = "registry.example.com/models"
NOT_SERVED: Thing = {"serving": {"enabled": False}}
NOT_MERGED: Thing = {**NOT_SERVED, "merge": {"enabled": False}}


def target(name: str = "a", what: str = "adapter", **fields: Any) -> Thing:
    return {"name": name, "what": what, "oci": {"repository": f"{REGISTRY}/{name}"}, **fields}


def cluster_of(*targets: Thing, config: Settings = OPEN, **spec: Any) -> Cluster:
    return Cluster(spec={**SPEC, "publish": list(targets), **spec}, config=config)


def trained(*targets: Thing, **spec: Any) -> Cluster:
    """Return a job without endpoint and merge whose training has completed."""
    cluster = cluster_of(*targets, **{**NOT_MERGED, **spec})
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()
    return cluster


def served(*targets: Thing, outcome: str | None = "Verified", **spec: Any) -> Cluster:
    """Return a job whose model is served, with an outcome of its verification."""
    cluster = cluster_of(*targets, **spec)
    controllers.run_all(cluster)
    cluster.outcome = outcome
    cluster.settle()
    return cluster


def condition(cluster: Cluster, type_: str = "Published") -> Thing:
    found: Thing = {each["type"]: each for each in cluster.status["conditions"]}[type_]
    return found


def jobs(cluster: Cluster) -> list[Thing]:
    return [
        each
        for each in cluster.each("Job")
        if each["metadata"]["labels"][naming.STAGE] == "publish"
    ]


def names(cluster: Cluster) -> list[str]:
    """Return the targets of the newest publish Job."""
    return [each.name for each in request_of(jobs(cluster)[-1]).targets]


def events(cluster: Cluster, reason: str) -> list[Event]:
    return [each for each in cluster.recorded if each.reason == reason]


def test_adapter_is_published_after_the_training() -> None:
    cluster = trained(target())
    assert condition(cluster)["status"] == "Unknown"
    assert (condition(cluster, "Ready")["status"], condition(cluster, "Succeeded")["status"]) == (
        "True",
        "True",
    )
    assert condition(cluster, "Finished")["status"] == "False"
    controllers.publish(cluster)
    name = f"demo-{cluster.status['revision']}-adapter"
    content = controllers.digest_of("adapterManifest")
    digest = f"sha256:{controllers.digest_of(name + content)}"
    (published,) = cluster.status["publish"]
    assert published.pop("time") == condition(cluster)["lastTransitionTime"]
    assert published == {"name": "a", "reference": f"{REGISTRY}/a@{digest}", "digest": digest}
    assert condition(cluster)["status"] == "True"
    assert condition(cluster, "Finished")["status"] == "True"
    assert [each.type for each in events(cluster, "Published")] == ["Normal"]


@pytest.mark.parametrize(
    ("spec", "when", "stages"),
    [
        (NOT_SERVED, {}, ["prepare", "train", "merge"]),
        (NOT_MERGED, {}, ["prepare", "train"]),
        (NOT_SERVED, {"when": "Merged"}, ["prepare", "train", "merge"]),
    ],
)
def test_publishing_waits_for_the_stages(spec: Thing, when: Thing, stages: list[str]) -> None:
    cluster = cluster_of(target(**when), **spec)
    for stage in stages:
        assert jobs(cluster) == []
        controllers.run(cluster, stage)
    cluster.settle()
    assert names(cluster) == ["a"]


def test_merged_model_has_the_content_and_the_build_of_the_ledger() -> None:
    cluster = served(target(what="merged", tags=["latest"]))
    request = request_of(jobs(cluster)[0])
    (asked,) = request.targets
    revision = cluster.status["revision"]
    assert asked.content == controllers.digest_of("mergedManifest")
    assert asked.version == f"demo-{revision}-{request.build}-merged"
    assert asked.own == ()
    assert request.build == cluster.status["build"]


def test_request_vouches_for_the_loss_in_the_card_of_a_hub() -> None:
    """The manifest of the adapter has the loss. An earlier image knows no such field."""
    place: dict[str, Any] = {"oci": None, "huggingFace": {"repo": "acme/support"}}
    for each, expected in (
        (target(what="merged", **place), controllers.digest_of("adapterManifest")),
        (target(what="adapter", **place), None),
        (target(what="merged"), None),
    ):
        cluster = served(each)
        assert request_of(jobs(cluster)[0]).adapter_manifest == expected


def test_builds_of_a_revision_have_different_names() -> None:
    """A name never moves, so the second build would be rejected under the name of the first."""
    merged, adapters = (
        {naming.published_name("demo", "r1", build, what) for build in ("b1", "b2")}
        for what in ("merged", "adapter")
    )
    assert (merged, adapters) == ({"demo-r1-b1-merged", "demo-r1-b2-merged"}, {"demo-r1-adapter"})


@pytest.mark.parametrize(
    ("outcome", "allow", "published"),
    [
        (None, [], False),
        ("Verified", [], True),
        ("Inconclusive", [], False),
        ("Inconclusive", ["Inconclusive"], True),
        ("Skipped", ["Inconclusive"], False),
        ("Skipped", ["Skipped", "Inconclusive"], True),
    ],
)
def test_verified_is_the_outcome_of_the_verification(
    outcome: str | None, allow: list[str], published: bool
) -> None:
    cluster = served(target(allow=allow), outcome=outcome)
    assert bool(jobs(cluster)) is published
    if outcome is not None and not published:
        assert condition(cluster)["reason"] == "PublishWithheld"
        assert outcome in condition(cluster)["message"]
        assert condition(cluster, "Finished")["status"] == "True"
        assert [each.type for each in events(cluster, "PublishWithheld")] == ["Warning"]


def test_verification_of_another_build_does_not_count() -> None:
    cluster = served(target(), target("b", what="merged"))
    controllers.publish(cluster)
    cluster.outcome = None
    cluster.edit(merge={"dtype": "bfloat16"})
    cluster.settle()
    assert [each["name"] for each in cluster.status["publish"] if "digest" not in each] == ["b"]
    merged = {"mergedManifest": controllers.digest_of("another")}
    controllers.run(cluster, "merge", text=controllers.message("merge", artifacts=merged))
    controllers.serve(cluster)
    assert len(jobs(cluster)) == 1
    cluster.outcome = "Verified"
    cluster.settle()
    assert names(cluster) == ["b"]


EVALUATED: Thing = {
    "rows": 100,
    "tokens": 1000,
    "baseLoss": "1.0",
    "dequantized": {"loss": "2.0", "difference": "1.0", "standardError": "0.1"},
    "original": {"loss": "2.0", "difference": "1.0", "standardError": "0.1"},
}


@pytest.mark.parametrize("serves", [True, False])
def test_gate_withholds_a_worse_model_from_every_target(serves: bool) -> None:
    cluster = cluster_of(target(when="Trained"), serving={"enabled": serves})
    controllers.run(cluster, "prepare")
    worse = controllers.message("train", artifacts={"evaluation": EVALUATED})
    controllers.run(cluster, "train", text=worse)
    controllers.run(cluster, "merge")
    cluster.settle()
    assert jobs(cluster) == []
    assert condition(cluster)["reason"] == "PublishWithheld"
    ready = condition(cluster, "Ready")
    explained = ready if serves else condition(cluster)
    assert "worse than its base model" in explained["message"]
    cluster.edit(evaluation={"onRegression": "Serve"})
    if serves:
        controllers.serve(cluster)
    cluster.settle()
    assert names(cluster) == ["a"]


def test_job_that_has_not_finished_does_not_wait_for_publishing_alone() -> None:
    cluster = cluster_of(target())
    cluster.settle()
    finished = condition(cluster, "Finished")
    assert (finished["status"], finished["reason"]) == ("False", "Preparing")
    assert condition(cluster)["reason"] == "Pending"


def test_adapter_is_published_although_the_merge_failed() -> None:
    cluster = cluster_of(target(when="Trained"))
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    text = controllers.message("merge", "failed", reason="NotMergeable")
    controllers.run(cluster, "merge", 84, text)
    cluster.settle()
    assert condition(cluster, "Ready")["reason"] == "NotMergeable"
    assert condition(cluster, "Finished")["status"] == "False"
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert condition(cluster, "Finished")["status"] == "True"


def test_failed_job_does_not_wait_for_a_verification_that_never_comes() -> None:
    cluster = cluster_of(target())
    controllers.run(cluster, "prepare")
    text = controllers.message("train", "failed", reason="LossDiverged")
    controllers.run(cluster, "train", 81, text)
    cluster.settle()
    assert condition(cluster)["reason"] == "Pending"
    assert condition(cluster, "Finished")["status"] == "True"


@pytest.mark.parametrize("reason", ["TargetRejected", "TargetConflict", "AccessDenied"])
def test_failure_affects_only_its_own_condition(reason: str) -> None:
    cluster = served(target(), target("b"))
    before = [dict(each["spec"]) for each in cluster.each("Deployment")]
    controllers.publish(cluster, "b", refusal=reason)
    assert condition(cluster)["status"] == "False"
    assert condition(cluster)["reason"] == "PublishFailed"
    ready, finished = condition(cluster, "Ready"), condition(cluster, "Finished")
    assert (ready["status"], ready["reason"], finished["status"]) == ("True", "Serving", "True")
    published, failed = cluster.status["publish"]
    assert "error" not in published
    assert failed["error"] == {"reason": reason, "message": "The quota is exhausted."}
    assert "digest" not in failed
    assert [dict(each["spec"]) for each in cluster.each("Deployment")] == before
    assert [each.type for each in events(cluster, "PublishFailed")] == ["Warning"]
    cluster.settle()
    assert len(jobs(cluster)) == 1, "an edit repeats it"


def test_only_targets_that_do_not_hold_the_model_are_repeated() -> None:
    cluster = trained(target(), target("b"))
    controllers.publish(cluster, "b")
    cluster.edit(publish=[target(), target("b", oci={"repository": f"{REGISTRY}/c"})])
    cluster.settle()
    assert names(cluster) == ["b"]
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert len(jobs(cluster)) == 2


@pytest.mark.parametrize(
    "changes",
    [{"tags": ["latest"]}, {"oci": {"repository": f"{REGISTRY}/other"}}, {"name": "other"}],
)
def test_edit_publishes_again_and_repeats_nothing_else(changes: Thing) -> None:
    cluster = served(target())
    controllers.publish(cluster)
    other = {each["metadata"]["name"] for each in cluster.each("Job")}
    build = cluster.status["build"]
    cluster.edit(publish=[target(**changes)])
    cluster.settle()
    (new,) = {each["metadata"]["name"] for each in cluster.each("Job")} - other
    assert "-publish-" in new
    assert cluster.status["build"] == build
    assert condition(cluster, "Ready")["status"] == "True"


def test_tag_moves_from_what_the_job_has_last_published() -> None:
    cluster = trained(target(tags=["latest"]))
    controllers.publish(cluster)
    digest = cluster.status["publish"][0]["digest"]
    cluster.edit(training={"seed": 1})
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()
    (asked,) = request_of(jobs(cluster)[-1]).targets
    assert asked.own == (digest,)


def test_target_that_becomes_due_later_is_published_by_another_job() -> None:
    early, late = target(when="Trained"), target("b", when="Verified")
    cluster = served(early, late, outcome=None)
    assert names(cluster) == ["a"]
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "Unknown"
    assert condition(cluster, "Finished")["status"] == "False"
    cluster.outcome = "Verified"
    cluster.settle()
    assert names(cluster) == ["b"]
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"


def test_failed_targets_are_repeated_at_most_once_for_each_target_that_becomes_due() -> None:
    early, late = target(when="Trained"), target("b", when="Verified")
    cluster = served(early, late, outcome=None)
    controllers.publish(cluster, "a")
    cluster.outcome = "Verified"
    cluster.settle()
    assert names(cluster) == ["a", "b"]
    controllers.publish(cluster, "a", "b")
    assert len(jobs(cluster)) == 2
    assert condition(cluster)["status"] == "False"


def test_suspended_job_publishes_nothing() -> None:
    cluster = trained(target())
    cluster.edit(suspend=True)
    cluster.settle()
    assert all("deletionTimestamp" in each["metadata"] for each in jobs(cluster))
    assert condition(cluster)["reason"] == "SuspendedByUser"
    controllers.sync(cluster)
    for pod in list(cluster.each("Pod")):
        controllers.stop(cluster, pod)
    controllers.sync(cluster)
    controllers.sync(cluster)
    cluster.edit(suspend=False)
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"


def test_destination_that_the_policy_does_not_allow_is_named() -> None:
    closed = OPEN.model_copy(update={"policy": Limits()})
    cluster = trained(target())
    controllers.publish(cluster)
    cluster.config = closed
    cluster.edit(publish=[target("b")])
    cluster.settle()
    assert len(jobs(cluster)) == 1
    assert condition(cluster)["reason"] == "NotAllowed"
    assert f"oci://{REGISTRY}/b" in condition(cluster)["message"]
    assert "policy.publishDestinations" in condition(cluster)["message"]
    assert condition(cluster, "Ready")["status"] == "True"


def test_publishing_of_a_replaced_revision_ends_and_keeps_its_volume() -> None:
    cluster = trained(target(), revisionHistoryLimit=0)
    cluster.settle()
    controllers.sync(cluster)
    first = cluster.status["revision"]
    controllers.start(cluster, controllers.pod_of_stage(cluster, "publish"))
    cluster.settle()
    cluster.edit(training={"seed": 1})
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()
    assert cluster.get(naming.VOLUME, f"demo-{first}")
    assert [each["metadata"]["labels"][naming.REVISION] for each in jobs(cluster)] == [first]
    controllers.publish(cluster)
    records = {each["revision"]: each.get("published") for each in cluster.status["revisions"]}
    assert first not in records or records[first]
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    cluster.settle()
    assert first not in {each["revision"] for each in cluster.status["revisions"]}


def test_publishing_gives_way_to_another_merge_on_its_volume() -> None:
    cluster = trained(target(what="merged"), merge={"enabled": True})
    controllers.run(cluster, "merge")
    cluster.settle()
    assert len(jobs(cluster)) == 1
    cluster.edit(merge={"base": "original"})
    cluster.settle()
    assert all("deletionTimestamp" in each["metadata"] for each in jobs(cluster))
    controllers.sync(cluster)
    for pod in list(cluster.each("Pod")):
        controllers.stop(cluster, pod)
    controllers.sync(cluster)
    controllers.sync(cluster)
    controllers.run(cluster, "merge")
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"


def test_removed_targets_stop_the_job_and_its_condition() -> None:
    cluster = trained(target())
    cluster.edit(publish=None)
    cluster.settle()
    assert all("deletionTimestamp" in each["metadata"] for each in jobs(cluster))
    assert "Published" not in {each["type"] for each in cluster.status["conditions"]}
    assert "publish" not in cluster.status
    assert condition(cluster, "Finished")["status"] == "True"


def test_result_counts_for_the_spec_that_its_job_was_given() -> None:
    """A Job that ends after an edit of its target proves nothing about the new one."""
    cluster = trained(target())
    cluster.settle()
    controllers.sync(cluster)
    pod = controllers.pod_of_stage(cluster, "publish")
    controllers.start(cluster, pod)
    cluster.settle()
    cluster.edit(publish=[target(oci={"repository": f"{REGISTRY}/moved"})])
    done = controllers.message("publish", artifacts=controllers.published(pod))
    controllers.finish(cluster, pod, 0, done)
    controllers.sync(cluster)
    cluster.settle()
    assert condition(cluster)["status"] == "Unknown"
    assert request_of(jobs(cluster)[-1]).targets[0].oci.repository == f"{REGISTRY}/moved"


def test_completed_job_without_the_outcome_of_a_target_has_failed() -> None:
    cluster = trained(target(), target("b"))
    forged = {"targets": [{"name": "a", "digest": "sha256:" + "0" * 64}, {"name": "x"}]}
    controllers.publish(cluster, text=controllers.message("publish", artifacts=forged))
    assert condition(cluster)["reason"] == "PublishFailed"
    assert "b" in condition(cluster)["message"]
    assert [each["name"] for each in cluster.status["publish"]] == ["a", "b"]
    assert "error" in cluster.status["publish"][1]


def test_reference_is_that_of_the_spec() -> None:
    cluster = trained(target())
    digest = "sha256:" + "0" * 64
    forged = {"targets": [{"name": "a", "digest": digest, "reference": "evil.example/x"}]}
    controllers.publish(cluster, text=controllers.message("publish", artifacts=forged))
    assert cluster.status["publish"][0]["reference"] == f"{REGISTRY}/a@{digest}"


def test_lost_volume_ends_publishing() -> None:
    cluster = trained(target())
    claim = cluster.get(naming.VOLUME, f"demo-{cluster.status['revision']}")
    assert claim
    cluster.remove(claim)
    cluster.settle()
    assert all("deletionTimestamp" in each["metadata"] for each in jobs(cluster))
    assert condition(cluster, "Ready")["reason"] == "VolumeLost"
    assert cluster.get(naming.VOLUME, claim["metadata"]["name"]) is None


def delete_volume(cluster: Cluster) -> None:
    """Delete the volume of the target while pods mount it."""
    claim = cluster.get(naming.VOLUME, f"demo-{cluster.status['revision']}")
    assert claim
    cluster.mark_deleted(claim)
    cluster.settle()


def test_publish_pod_that_can_never_mount_its_volume_is_stopped() -> None:
    cluster = served(target())
    controllers.sync(cluster)
    delete_volume(cluster)
    assert all("deletionTimestamp" in job["metadata"] for job in jobs(cluster))
    assert condition(cluster, "Ready")["reason"] == "VolumeLost"
    assert condition(cluster, "Serving")["status"] == "True"


def test_running_publish_pod_saves_the_model_of_a_terminating_volume() -> None:
    cluster = served(target())
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "publish"))
    cluster.settle()
    delete_volume(cluster)
    assert not any("deletionTimestamp" in job["metadata"] for job in jobs(cluster))
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"


def test_volume_that_only_a_publish_pod_mounts_is_reported() -> None:
    cluster = trained(target(), serving={"enabled": False})
    controllers.sync(cluster)
    pod = controllers.pod_of_stage(cluster, "publish")
    controllers.start(cluster, pod)
    cluster.settle()
    delete_volume(cluster)
    ready = condition(cluster, "Ready")
    assert ready["reason"] == "VolumeLost"
    assert f"Pod {pod['metadata']['name']} still mounts" in ready["message"]


def test_attempts_are_limited_as_those_of_other_stages() -> None:
    cluster = trained(target(), runPolicy={"maxRestarts": 0})
    cluster.settle()
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "publish"))
    cluster.settle()
    (job,) = jobs(cluster)
    cluster.remove(job)
    cluster.settle()
    for pod in list(cluster.each("Pod")):
        controllers.stop(cluster, pod)
    controllers.sync(cluster)
    cluster.settle()
    assert condition(cluster)["reason"] == "TooManyRestarts"
    assert cluster.status["publish"][0]["error"]["reason"] == "TooManyRestarts"
    assert condition(cluster, "Ready")["status"] == "True"


def test_the_due_targets_are_determined_once_while_no_job_publishes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every reconcile of every job asks for them."""
    cluster = trained(target())
    controllers.publish(cluster)
    calls: list[str] = []
    is_complete = publications.is_complete

    def counted(ledger: Ledger, revision: TargetRevision, each: PublishTarget) -> bool:
        calls.append(each.name)
        return is_complete(ledger, revision, each)

    monkeypatch.setattr(publications, "is_complete", counted)
    cluster.plan()
    assert calls == ["a"]
