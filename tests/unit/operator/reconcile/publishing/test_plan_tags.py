"""Tags move with the target revision, and from every content that the job has published."""

from datetime import timedelta

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing
from tests.fakes.controllers import request_of
from tests.unit.operator.reconcile.publishing.test_plan_publishing import (
    condition,
    jobs,
    served,
    target,
    trained,
)

from finetune_operator.objects import naming


def retrain(cluster: Cluster, seed: int) -> None:
    cluster.edit(training={"seed": seed})
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()


def published(cluster: Cluster) -> Thing:
    found: Thing = cluster.status["publish"][0]
    return found


@pytest.mark.parametrize("seconds", [0, -86_400], ids=["as usual", "clock is set back"])
def test_a_revert_moves_the_tag_back(seconds: int) -> None:
    cluster = trained(target(tags=["latest"]))
    controllers.publish(cluster)
    first = published(cluster)["digest"]
    retrain(cluster, 1)
    controllers.publish(cluster)
    second = published(cluster)["digest"]
    assert first != second
    cluster.now += timedelta(seconds=seconds)
    cluster.edit(training={"seed": None})
    cluster.settle()
    assert condition(cluster)["status"] == "Unknown", "the tag refers to the second model"
    assert request_of(jobs(cluster)[-1]).targets[0].own == (first, second)
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert published(cluster)["digest"] == first
    cluster.settle()
    controllers.sync(cluster)
    assert condition(cluster)["status"] == "True", "and publishing ends"


def test_tags_move_from_the_content_of_a_revision_that_was_pruned() -> None:
    cluster = trained(target(tags=["latest"]), revisionHistoryLimit=0)
    controllers.publish(cluster)
    first = published(cluster)["digest"]
    for seed in (1, 2):
        retrain(cluster, seed)
        controllers.publish(cluster, "a")
    assert len(cluster.status["revisions"]) == 1
    assert cluster.status["publishedDigests"] == [first]
    cluster.edit(publish=[target(tags=["latest", "more"])])
    cluster.settle()
    assert request_of(jobs(cluster)[-1]).targets[0].own == (first,)


def test_content_is_remembered_although_its_revision_can_be_pruned_at_once() -> None:
    cluster = trained(target(tags=["latest"]), revisionHistoryLimit=0)
    cluster.settle()
    controllers.sync(cluster)
    pod = controllers.pod_of_stage(cluster, "publish")
    controllers.start(cluster, pod)
    cluster.settle()
    (volume,) = cluster.each(naming.VOLUME)
    cluster.edit(training={"seed": 1})
    cluster.settle()
    artifacts = controllers.published(pod)
    controllers.finish(cluster, pod, 0, controllers.message("publish", artifacts=artifacts))
    cluster.mark_deleted(volume)
    controllers.sync(cluster)
    for _ in range(3):
        cluster.settle()
        controllers.sync(cluster)
    assert len(cluster.status["revisions"]) == 1
    assert cluster.status["publishedDigests"] == [artifacts["targets"][0]["digest"]]


def test_content_that_was_published_without_all_tags_is_remembered() -> None:
    cluster = trained(target(tags=["latest", "taken"]))
    cluster.settle()
    controllers.sync(cluster)
    pod = controllers.pod_of_stage(cluster, "publish")
    controllers.start(cluster, pod)
    cluster.settle()
    artifacts = controllers.published(pod)
    artifacts["targets"][0]["error"] = {"reason": "TargetConflict", "message": "taken is taken"}
    text = controllers.message("publish", "failed", artifacts=artifacts, reason="PublishFailed")
    controllers.finish(cluster, pod, 87, text)
    controllers.sync(cluster)
    cluster.settle()
    assert published(cluster)["error"]["reason"] == "TargetConflict"
    assert condition(cluster)["status"] == "False"
    assert cluster.status["publishedDigests"] == [artifacts["targets"][0]["digest"]]


@pytest.mark.parametrize("publish", [["latest", "more"], None], ids=["other tags", "removed"])
def test_tags_move_from_what_was_published_while_the_spec_changed(
    publish: list[str] | None,
) -> None:
    cluster = trained(target(tags=["latest"]), target("b", tags=["stable"]))
    cluster.settle()
    controllers.sync(cluster)
    pod = controllers.pod_of_stage(cluster, "publish")
    controllers.start(cluster, pod)
    cluster.settle()
    others = [target("b", tags=["stable", "more"])]
    left = others if publish is None else [target(tags=publish), *others]
    cluster.edit(publish=left)
    cluster.settle()
    artifacts = controllers.published(pod)
    text = controllers.message("publish", artifacts=artifacts)
    controllers.finish(cluster, pod, 0, text)
    controllers.sync(cluster)
    cluster.settle()
    digests = [*dict.fromkeys(each["digest"] for each in artifacts["targets"])]
    assert cluster.status["publishedDigests"] == digests
    own = {each.own for each in request_of(jobs(cluster)[-1]).targets}
    assert own == {tuple(digests)}
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert cluster.status["publishedDigests"] == digests


def test_a_model_that_is_rejected_while_its_job_waits_is_not_published() -> None:
    cluster = served(target())
    cluster.settle()
    controllers.sync(cluster)
    assert len(jobs(cluster)) == 1
    cluster.outcome = "Mismatch"
    cluster.settle()
    assert all("deletionTimestamp" in job["metadata"] for job in jobs(cluster))
    assert condition(cluster)["reason"] == "PublishWithheld"


def on_hub(**place: str) -> Thing:
    return {"name": "a", "what": "adapter", "huggingFace": {"repo": "acme/support", **place}}


def test_reference_on_a_hub_is_the_commit() -> None:
    cluster = trained(on_hub())
    controllers.publish(cluster)
    digest = published(cluster)["digest"]
    assert digest.startswith("sha1:")
    assert published(cluster)["reference"] == f"hf://acme/support@{digest.removeprefix('sha1:')}"
    assert cluster.status["publishedDigests"] == [digest]
    assert condition(cluster)["status"] == "True"


def test_branch_follows_the_target_revision() -> None:
    """To the next revision, back after a revert, and to another branch."""
    cluster = trained(on_hub())
    controllers.publish(cluster)
    retrain(cluster, 1)
    controllers.publish(cluster)
    cluster.edit(training={"seed": None})
    cluster.settle()
    assert condition(cluster)["status"] == "Unknown", "the branch has the second model"
    assert len(request_of(jobs(cluster)[-1]).targets[0].own) == 2
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    cluster.edit(publish=[on_hub(branch="tuned")])
    cluster.settle()
    assert condition(cluster)["status"] == "Unknown"
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
