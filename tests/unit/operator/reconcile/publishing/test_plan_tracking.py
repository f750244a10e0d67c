"""A tracking server: it gets the results after the other targets, and their links."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import SPEC, Cluster, Thing
from tests.fakes.controllers import request_of
from tests.unit.operator.reconcile.publishing.test_plan_publishing import (
    OPEN,
    cluster_of,
    condition,
    jobs,
    served,
    target,
    trained,
)

from finetune_api.policy.limits import Limits
from finetune_api.validation import findings

TRACKING: Thing = {"mlflow": {"uri": "https://mlflow.example.com"}}


def names_of(job: Thing) -> list[str]:
    return [each.name for each in request_of(job).targets]


def by_name(cluster: Cluster) -> dict[str, Thing]:
    return {each["name"]: each for each in cluster.status["publish"]}


def test_job_that_publishes_nothing_is_tracked_after_its_training() -> None:
    cluster = trained(publish=None, tracking=TRACKING)
    assert [names_of(each) for each in jobs(cluster)] == [["mlflow"]]
    assert condition(cluster, "Finished")["status"] == "False"
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    expected = "The tracking server https://mlflow.example.com has the results of the training."
    assert condition(cluster)["message"] == expected
    assert condition(cluster, "Finished")["status"] == "True"
    assert by_name(cluster)["mlflow"]["reference"] == "https://mlflow.example.com"
    assert "publishedDigests" not in cluster.status, "it holds no model that a tag could refer to"
    cluster.settle()
    assert len(jobs(cluster)) == 1


def test_links_are_sent_when_all_targets_hold_the_model() -> None:
    cluster = trained(target(), target("b"), tracking=TRACKING)
    assert names_of(jobs(cluster)[-1]) == ["a", "b"]
    controllers.publish(cluster)
    cluster.settle()
    assert names_of(jobs(cluster)[-1]) == ["mlflow"]
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert condition(cluster)["message"] == (
        "All targets hold the model: a, b. The tracking server https://mlflow.example.com has the "
        "results of the training."
    )
    assert len(jobs(cluster)) == 2
    cluster.edit(publish=[target(), target("b"), target("c")])
    cluster.settle()
    assert names_of(jobs(cluster)[-1]) == ["c"]
    controllers.publish(cluster)
    cluster.settle()
    assert names_of(jobs(cluster)[-1]) == ["mlflow"], "the server has no link to c yet"


@pytest.mark.parametrize(
    ("edit", "again"),
    [({"experiment": "other"}, True), ({"registeredModel": "support"}, True), ({}, False)],
)
def test_edit_of_what_the_server_gets_sends_the_results_again(edit: Thing, again: bool) -> None:
    cluster = trained(target(), tracking=TRACKING)
    controllers.publish(cluster)
    cluster.settle()
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    cluster.edit(tracking={"mlflow": {**TRACKING["mlflow"], **edit, "secretRef": {"name": "a"}}})
    cluster.settle()
    assert [names_of(each) for each in jobs(cluster)[2:]] == ([["mlflow"]] if again else [])


def test_a_failed_target_does_not_keep_the_others_from_being_tracked() -> None:
    cluster = trained(target(), target("b"), tracking=TRACKING)
    controllers.publish(cluster, "b")
    cluster.settle()
    assert names_of(jobs(cluster)[-1]) == ["b", "mlflow"]
    controllers.publish(cluster, "b")
    assert condition(cluster)["status"] == "False"
    assert "error" not in by_name(cluster)["mlflow"]
    assert len(jobs(cluster)) == 2


def test_target_that_waits_for_an_edit_does_not_delay_tracking() -> None:
    cluster = served(target(), outcome="Inconclusive", tracking=TRACKING)
    cluster.settle()
    assert names_of(jobs(cluster)[-1]) == ["mlflow"]
    controllers.publish(cluster)
    assert condition(cluster)["reason"] == "PublishWithheld"
    assert "error" not in by_name(cluster)["mlflow"]


def test_failure_of_the_server_does_not_affect_the_endpoint() -> None:
    cluster = served(publish=None, tracking=TRACKING)
    controllers.publish(cluster, "mlflow")
    assert condition(cluster)["reason"] == "PublishFailed"
    assert condition(cluster, "Ready")["status"] == "True"
    assert by_name(cluster)["mlflow"]["error"]["reason"] == "TargetRejected"
    cluster.edit(tracking={"mlflow": {"uri": "https://other.example.com"}})
    cluster.settle()
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"


def test_server_that_the_policy_does_not_allow() -> None:
    cluster = trained(publish=None, tracking=TRACKING)
    controllers.publish(cluster)
    cluster.config = OPEN.model_copy(update={"policy": Limits()})
    cluster.edit(tracking={"mlflow": {"uri": "https://other.example.com"}})
    cluster.settle()
    assert len(jobs(cluster)) == 1
    assert condition(cluster)["reason"] == "NotAllowed"
    assert "mlflow+https://other.example.com" in condition(cluster)["message"]


@pytest.mark.parametrize("edit", [{"experiment": "another"}, {"secretRef": {"name": "a"}}])
def test_tracking_changes_no_revision(edit: dict[str, Any]) -> None:
    cluster = trained(publish=None, tracking=TRACKING)
    controllers.publish(cluster)
    revision, build = cluster.status["revision"], cluster.status["build"]
    cluster.edit(tracking={"mlflow": {**TRACKING["mlflow"], **edit}})
    cluster.settle()
    assert (cluster.status["revision"], cluster.status["build"]) == (revision, build)


def test_results_that_were_sent_while_the_spec_changed_are_no_content_of_the_job() -> None:
    cluster = trained(publish=None, tracking=TRACKING)
    cluster.settle()
    controllers.sync(cluster)
    pod = controllers.pod_of_stage(cluster, "publish")
    controllers.start(cluster, pod)
    cluster.settle()
    cluster.edit(tracking={"mlflow": {**TRACKING["mlflow"], "experiment": "another"}})
    cluster.settle()
    text = controllers.message("publish", artifacts=controllers.published(pod))
    controllers.finish(cluster, pod, 0, text)
    controllers.sync(cluster)
    cluster.settle()
    assert len(jobs(cluster)) == 2
    assert "publishedDigests" not in cluster.status


REGISTERED: Thing = {"mlflow": {**TRACKING["mlflow"], "registeredModel": "support"}}


@pytest.mark.parametrize("publish", [None, []])
def test_registered_model_needs_a_target(publish: list[Thing] | None) -> None:
    cluster = cluster_of(tracking=REGISTERED, publish=publish)
    cluster.settle()
    ready = condition(cluster, "Ready")
    assert ready["reason"] == "InvalidSpec"
    assert "tracking.mlflow.registeredModel" in ready["message"]
    assert "'support'" in ready["message"]


def test_targets_of_the_defaults_have_the_registered_model() -> None:
    """The API server does not know the defaults of the chart or of a profile."""
    assert not findings(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "demo"},
            "spec": {**SPEC, "tracking": REGISTERED},
        }
    )
    config = OPEN.model_copy(update={"defaults": {**OPEN.defaults, "publish": [target()]}})
    cluster = trained(config=config, publish=None, tracking=REGISTERED)
    controllers.publish(cluster)
    cluster.settle()
    assert request_of(jobs(cluster)[-1]).targets[0].mlflow.registered_model == "support"
