"""The spec describes a revision that cannot start: what runs and serves is reconciled as before."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing, copied
from tests.support.reconcile.plan_steps import (
    MERGED,
    PREPARED,
    TRAINED,
    delete,
    run,
    running,
    stop,
)
from tests.unit.operator.reconcile.test_plan_profiles import LONGER, offer, ready, started

from finetune_api.policy.limits import Limits
from finetune_operator.objects import naming
from finetune_operator.usage.values import NamespaceUsage

RERUN: Thing = {"rerun": "again"}
UNPUBLISHED: Thing = {"tracking": {"mlflow": {"uri": "https://mlflow", "registeredModel": "m"}}}


def no_profile(cluster: Cluster) -> str:
    """Delete the profile, and ask for a revision that needs it."""
    del cluster.profiles["small"]
    cluster.edit(**RERUN)
    return "ProfileNotFound"


def invalid_profile(cluster: Cluster) -> str:
    offer(cluster, "small", defaults={"training": {"epoch": 3}})
    cluster.edit(**RERUN)
    return "ProfileInvalid"


def invalid_spec(cluster: Cluster) -> str:
    """Ask for a revision whose training part cannot be read."""
    cluster.edit(**RERUN, training={"maxSteps": 2, "epochs": 3})
    return "InvalidSpec"


def unpublished_model(cluster: Cluster) -> str:
    """Ask for a revision that can be read, but not produced."""
    permit(cluster)
    cluster.edit(**RERUN, **UNPUBLISHED)
    return "InvalidSpec"


CAUSES = pytest.mark.parametrize(
    "prevent", [no_profile, invalid_profile, invalid_spec, unpublished_model]
)
Prevent = Callable[[Cluster], str]


def permit(cluster: Cluster) -> None:
    """Allow every target of publishing."""
    policy = Limits.model_validate({"publishDestinations": {"allow": [".*"]}})
    cluster.config = cluster.config.model_copy(update={"policy": policy})


def trains() -> Cluster:
    cluster = started(profile="small")
    PREPARED(cluster)
    running("train")(cluster)
    return cluster


def serves(**spec: object) -> Cluster:
    cluster = started(profile="small", **spec)
    controllers.run_all(cluster)
    assert ready(cluster)["reason"] == "Serving"
    return cluster


def deployment(cluster: Cluster) -> Thing:
    (found,) = cluster.each("Deployment")
    return found


@CAUSES
def test_a_training_continues_until_its_model_is_served(prevent: Prevent) -> None:
    cluster = trains()
    revision = cluster.status["revision"]
    reason = prevent(cluster)
    found = ready(cluster)
    assert (found["status"], found["reason"]) == ("False", reason)
    assert f"Revision {revision} continues meanwhile: Training the adapter." in found["message"]
    TRAINED(cluster)
    MERGED(cluster)
    controllers.serve(cluster)
    found = ready(cluster)
    assert (found["status"], found["reason"]) == ("False", reason)
    assert f"Revision {revision} continues meanwhile: Serving at" in found["message"]
    (serving,) = (each for each in cluster.status["conditions"] if each["type"] == "Serving")
    assert serving["status"] == "True"
    assert cluster.status["serving"]["revision"] == cluster.status["revision"] == revision


@CAUSES
def test_an_endpoint_is_kept_as_the_spec_describes_it(prevent: Prevent) -> None:
    cluster = serves()
    reason = prevent(cluster)
    kept = deployment(cluster)
    before = kept["spec"]["template"]["spec"]["containers"][0]["image"]
    kept["spec"]["template"]["spec"]["containers"][0]["image"] = "registry/other:1"
    kept["metadata"]["generation"] += 1
    cluster.touch(kept)
    (service,) = cluster.each("Service")
    cluster.remove(service)
    assert ready(cluster)["reason"] == reason
    kept = deployment(cluster)
    assert kept["spec"]["template"]["spec"]["containers"][0]["image"] == before
    assert [each["metadata"]["name"] for each in cluster.each("Service")] == ["demo-serve"]
    cluster.edit(serving={"replicas": 0})
    assert ready(cluster)["reason"] == reason
    assert deployment(cluster)["spec"]["replicas"] == 0


@CAUSES
def test_no_stage_starts_whose_values_were_edited(prevent: Prevent) -> None:
    cluster = started(profile="small")
    reason = prevent(cluster)
    PREPARED(cluster)
    assert ready(cluster)["reason"] == reason
    stages = [each["metadata"]["labels"][naming.STAGE] for each in cluster.each("Job")]
    assert stages == ["prepare"], "nobody wants to train this revision any more"


def test_a_training_that_lost_its_node_resumes() -> None:
    cluster = trains()
    no_profile(cluster)
    delete("Job", "demo-R-train-1")(cluster)
    controllers.collect(cluster)
    stop("train")(cluster)
    assert ready(cluster)["reason"] == "ProfileNotFound"
    (job,) = (each for each in cluster.each("Job") if "train" in each["metadata"]["name"])
    assert job["metadata"]["labels"][naming.ATTEMPT] == "2"


@CAUSES
def test_the_revision_is_replaced_once_the_new_one_can_start(prevent: Prevent) -> None:
    cluster = trains()
    first = cluster.status["revision"]
    prevent(cluster)
    cluster.settle()
    offer(cluster, "small", defaults=LONGER)
    cluster.edit(tracking=None, training={"maxSteps": None})
    assert ready(cluster)["reason"] in ("Preparing", "WaitingForCleanup")
    assert cluster.status["revision"] != first
    assert any(each.reason == "Superseded" for each in cluster.recorded)


def test_usage_and_old_revisions_are_reconciled() -> None:
    cluster = serves(revisionHistoryLimit=3)
    cluster.edit(rerun="second")
    controllers.run_all(cluster)
    cluster.settle()
    assert len(cluster.status["revisions"]) == 2
    no_profile(cluster)
    cluster.usage = NamespaceUsage()
    cluster.edit(revisionHistoryLimit=0)
    for _ in range(6):
        cluster.settle()
        for pod in cluster.each("Pod"):
            if controllers.alive(pod) and "deletionTimestamp" in pod["metadata"]:
                controllers.stop(cluster, pod)
        controllers.sync(cluster)
    assert [each["revision"] for each in cluster.status["revisions"]] == [
        cluster.status["revision"]
    ]
    key = f"train/{cluster.present_job()['metadata']['uid']}/{cluster.status['revision']}"
    cluster.usage = replace(cluster.usage, trained={key: 7200})
    ready(cluster)
    assert cluster.status["cost"]["gpuHours"] == "2.00"


@pytest.mark.parametrize("rank", [8, 64])
def test_the_pods_of_an_adapter_keep_the_rank_that_it_was_trained_with(rank: int) -> None:
    cluster = started(profile="small", serving={"mode": "adapter"}, training={"lora": {"r": 32}})
    PREPARED(cluster)
    TRAINED(cluster)
    controllers.serve(cluster)
    before = deployment(cluster)["spec"]["template"]
    cluster.edit(training={"lora": {"r": rank}})
    assert no_profile(cluster) == ready(cluster)["reason"]
    assert str(before["spec"]["containers"]).count("'--max-lora-rank', '32'") == 1
    assert deployment(cluster)["spec"]["template"] == before


def test_a_model_is_published_to_no_new_target() -> None:
    """The author of the edit wants the new revision there."""
    target = {"name": "registry", "what": "adapter", "oci": {"repository": "registry/m/demo"}}
    cluster = serves()
    permit(cluster)
    no_profile(cluster)
    cluster.edit(publish=[target])
    assert ready(cluster)["reason"] == "ProfileNotFound"
    assert not [each for each in cluster.each("Job") if "publish" in each["metadata"]["name"]]


def test_nothing_is_changed_for_a_spec_of_a_newer_version() -> None:
    cluster = serves()
    before = copied(cluster.objects)
    cluster.edit(training={"unknown": 1}, serving={"replicas": 0})
    found = ready(cluster)
    assert (found["reason"], "continues" in found["message"]) == ("InvalidSpec", False)
    assert cluster.objects == before


def test_nothing_is_kept_before_a_revision_has_started() -> None:
    cluster = Cluster()
    cluster.edit(profile="small")
    assert ready(cluster)["reason"] == "ProfileNotFound"
    assert cluster.objects == {}


def without_rank(cluster: Cluster) -> None:
    """Take the ranks from the ledger, as a version wrote it that did not record them."""
    status = copied(cluster.status)
    for each in status["revisions"]:
        del each["frozen"]["loraRank"]
    cluster.present_job()["status"] = status


def serves_adapter() -> Cluster:
    cluster = started(profile="small", serving={"mode": "adapter"}, training={"lora": {"r": 32}})
    PREPARED(cluster)
    TRAINED(cluster)
    controllers.serve(cluster)
    return cluster


def test_a_rank_that_an_earlier_version_did_not_record_is_recorded_before_an_edit() -> None:
    cluster = serves_adapter()
    without_rank(cluster)
    cluster.settle()
    assert cluster.status["revisions"][-1]["frozen"]["loraRank"] == 32
    before = deployment(cluster)["spec"]["template"]
    cluster.edit(training={"lora": {"r": None}})
    assert invalid_spec(cluster) == ready(cluster)["reason"]
    assert deployment(cluster)["spec"]["template"] == before


def test_the_pods_of_an_adapter_of_unknown_rank_stay_as_they_are() -> None:
    cluster = serves_adapter()
    without_rank(cluster)
    before = deployment(cluster)["spec"]
    assert invalid_spec(cluster) == ready(cluster)["reason"]
    assert deployment(cluster)["spec"] == before


SECRET: Thing = {"tokenSecretRef": {"name": "hub", "key": "token"}}


def jobs(cluster: Cluster) -> set[str]:
    return {each["metadata"]["name"] for each in cluster.each("Job")}


@pytest.mark.parametrize("stage", ["train", "merge"])
def test_an_invalid_edit_does_not_repeat_a_failed_stage(stage: str) -> None:
    cluster = started(profile="small", model=SECRET)
    PREPARED(cluster)
    if stage == "merge":
        TRAINED(cluster)
    run(stage, 65)(cluster)
    assert ready(cluster)["status"] == "False"
    before, attempts = jobs(cluster), copied(cluster.status["revisions"])
    assert invalid_spec(cluster) == ready(cluster)["reason"]
    assert jobs(cluster) <= before
    assert cluster.status["revisions"] == attempts


def test_an_invalid_edit_starts_no_new_attempt_at_serving() -> None:
    cluster = started(profile="small", model=SECRET)
    for step in (PREPARED, TRAINED, MERGED):
        step(cluster)
    cluster.settle()
    before = deployment(cluster)["spec"]["template"]
    assert invalid_spec(cluster) == ready(cluster)["reason"]
    assert deployment(cluster)["spec"]["template"] == before


def test_an_invalid_edit_does_not_replace_a_pod_that_waits_for_a_gpu() -> None:
    cluster = started(profile="small", model=SECRET)
    PREPARED(cluster)
    cluster.settle()
    controllers.sync(cluster)
    before = jobs(cluster)
    assert invalid_spec(cluster) == ready(cluster)["reason"]
    assert jobs(cluster) == before
    assert not [each for each in cluster.each("Job") if "deletionTimestamp" in each["metadata"]]


def test_a_training_that_resumes_meanwhile_does_not_get_another_attempt_by_the_correction() -> None:
    cluster = started(profile="small", model=SECRET)
    PREPARED(cluster)
    running("train")(cluster)
    invalid_spec(cluster)
    delete("Job", "demo-R-train-1")(cluster)
    stop("train")(cluster)
    run("train", 65)(cluster)
    before = jobs(cluster)
    cluster.edit(rerun=None, training={"maxSteps": None, "epochs": None})
    found = ready(cluster)
    assert found["status"] == "False"
    assert jobs(cluster) <= before


@CAUSES
def test_a_revision_that_continues_can_be_suspended(prevent: Prevent) -> None:
    cluster = trains()
    reason = prevent(cluster)
    cluster.edit(suspend=True)
    assert ready(cluster)["reason"] == reason
    (found,) = (each for each in cluster.status["conditions"] if each["type"] == "Suspended")
    assert (found["status"], found["reason"]) == ("True", "SuspendedByUser")
