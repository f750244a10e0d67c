"""The column SERVING of ``kubectl get``: which build answers, and why none does."""

import pytest
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster, Thing, copied
from tests.support.reconcile.serving_steps import (
    REMERGE,
    RETRAIN,
    finish_stages,
    reason,
    serves,
    serving,
)


def summary(cluster: Cluster) -> str:
    """Return the column after a reconcile, with the builds' revisions as r1 and r2."""
    cluster.settle()
    text = str(cluster.status["serving"]["summary"])
    for number, revision in enumerate(cluster.revisions, 1):
        text = text.replace(revision, f"r{number}")
    return text


def test_a_first_job_from_preparation_to_its_end() -> None:
    cluster = Cluster()
    assert summary(cluster) == "-"
    finish_stages(cluster, 1, "prepare", "train", "merge")
    assert summary(cluster) == "starting"
    controllers.sync(cluster)
    assert summary(cluster) == "starting"
    scheduler.settle(cluster, 1)
    assert summary(cluster) == "r1"
    cluster.edit(serving={"replicas": 0})
    scheduler.settle(cluster, 1)
    assert summary(cluster) == "stopped"
    cluster.edit(serving={"replicas": 1})
    for _ in range(3):
        assert summary(cluster) == "starting"
        assert reason(cluster) == "Starting"
        controllers.sync(cluster)
    scheduler.settle(cluster, 1)
    assert summary(cluster) == "r1"
    cluster.edit(serving={"enabled": False})
    scheduler.settle(cluster, 1)
    assert summary(cluster) == "-"


def test_an_old_build_answers_until_the_new_one_does() -> None:
    cluster = serving(2)
    cluster.edit(**RETRAIN)
    for stage in ("prepare", "train", "merge"):
        assert summary(cluster) == "r1 (old)"
        finish_stages(cluster, 2, stage)
    scheduler.settle(cluster, 2)
    assert summary(cluster) == "r2"
    cluster.edit(**REMERGE)
    assert summary(cluster) == "r2 (old)", "another build of the same revision"


def test_a_released_gpu_is_not_an_outage() -> None:
    cluster = serving(1, rollout="FreeGPU")
    cluster.edit(**RETRAIN)
    finish_stages(cluster, 1, "prepare")
    scheduler.settle(cluster, 1)
    assert (summary(cluster), serves(cluster)) == ("released", "False/GPUReleased")
    cluster.edit(suspend=True)
    for _ in range(3):
        assert (summary(cluster), serves(cluster)) == ("starting", "False/Starting")
        controllers.sync(cluster)
    scheduler.settle(cluster, 1)
    assert summary(cluster) == "r1 (old)"


EDITS: dict[str, Thing] = {
    "context length": {"serving": {"maxModelLen": 2048}},
    "served name": {"serving": {"servedModelNames": ["acme"]}},
    "resources": {"resources": {"serve": {"requests": {"cpu": "1"}}}},
    "labels": {"podMetadata": {"labels": {"example.com/team": "a"}}},
    "placement": {"serving": {"placement": {"nodeSelector": {"pool": "b"}}}},
}


def end_deleted(cluster: Cluster) -> None:
    """Let every terminating pod end."""
    for pod in list(cluster.each("Pod")):
        if "deletionTimestamp" in pod["metadata"] and controllers.alive(pod):
            controllers.stop(cluster, pod)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_that_replaces_the_pods_is_not_an_outage(edit: str) -> None:
    cluster = serving(1)
    before = scheduler.pod_of(cluster, "serve")["metadata"]["name"]
    cluster.edit(**EDITS[edit])
    cluster.settle()
    for step in (controllers.sync, end_deleted, controllers.sync, controllers.sync):
        step(cluster)
        assert (summary(cluster), serves(cluster)) == ("starting", "False/Starting")
        assert reason(cluster) == "Starting"
    scheduler.settle(cluster, 1)
    assert (summary(cluster), reason(cluster)) == ("r1", "Serving")
    assert scheduler.pod_of(cluster, "serve")["metadata"]["name"] != before


def test_replaced_pods_that_do_not_answer_in_time_are_an_outage() -> None:
    cluster = serving(1)
    cluster.edit(serving={"maxModelLen": 2048})
    cluster.settle()
    scheduler.settle(cluster, 0)
    assert (summary(cluster), serves(cluster)) == ("waiting", "False/Starting")
    assert "loading" not in str(cluster.status["conditions"])
    (deployment,) = cluster.each("Deployment")
    cluster.wait(deployment["spec"]["progressDeadlineSeconds"] + 60)
    assert (summary(cluster), serves(cluster)) == ("down", "False/NotAvailable")
    assert reason(cluster) == "EndpointDown"
    scheduler.settle(cluster, 1)
    assert summary(cluster) == "r1"


def test_a_pod_that_waits_for_a_gpu_has_loaded_nothing() -> None:
    cluster = Cluster()
    finish_stages(cluster, 1, "prepare", "train", "merge")
    cluster.settle()
    assert cluster.status["progress"] == "load", "the pod has not been scheduled yet"
    scheduler.settle(cluster, 0)
    assert (reason(cluster), summary(cluster)) == ("Unschedulable", "waiting")
    assert "progress" not in cluster.status


def test_a_roll_on_a_single_gpu_is_no_warning() -> None:
    """The new pod waits until the pod that it replaces has ended."""
    cluster = serving(1)
    old = scheduler.pod_of(cluster, "serve")
    cluster.edit(serving={"maxModelLen": 2048})
    cluster.settle()
    controllers.sync(cluster)
    replica = {**copied(old), "status": {"phase": "Pending"}}
    replica["metadata"] |= {"name": "new", "uid": "new"}
    del replica["metadata"]["deletionTimestamp"]
    replica = cluster.add(replica)
    scheduler.refuse(cluster, replica)
    before = len(cluster.recorded)
    assert summary(cluster) == "waiting"
    assert reason(cluster) == "Starting"
    assert cluster.status["conditions"][0]["message"] == (
        f"Pod new starts when pod {old['metadata']['name']} has ended, which still holds its GPU."
    )
    assert not [event for event in cluster.recorded[before:] if event.reason == "Unschedulable"]
    cluster.wait(61)
    cluster.settle()
    assert reason(cluster) == "Unschedulable", "the old pod does not end"


def test_a_lost_pod_is_an_outage() -> None:
    cluster = serving(1)
    controllers.evict(cluster, scheduler.pod_of(cluster, "serve"))
    for _ in range(3):
        controllers.sync(cluster)
        assert (summary(cluster), serves(cluster)) == ("down", "False/NotAvailable")
        assert reason(cluster) == "Restarting"
        end_deleted(cluster)
    scheduler.settle(cluster, 1)
    assert summary(cluster) == "r1"


def test_a_lost_deployment_is_an_outage_of_the_old_build() -> None:
    cluster = serving(2)
    cluster.edit(**RETRAIN)
    cluster.settle()
    controllers.delete(cluster, "Deployment", f"demo-{cluster.builds[0]}")
    assert summary(cluster) == "down"
    scheduler.settle(cluster, 2)
    assert summary(cluster) == "r1 (old)"


def test_a_failed_first_build_is_stopped() -> None:
    cluster = Cluster()
    finish_stages(cluster, 1, "prepare", "train", "merge")
    cluster.settle()
    controllers.sync(cluster)
    scheduler.crash(cluster, scheduler.pod_of(cluster, "serve"), 3)
    assert summary(cluster) == "stopped"
    assert reason(cluster) == "CrashLoopBackOff"
