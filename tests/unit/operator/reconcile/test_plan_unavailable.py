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
