"""Queues of Kueue that the operator reads: a missing one, the card of its flavors, the position."""

import json
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing
from tests.unit.operator.reconcile.test_plan_profiles import offer, ready

from finetune_api.contracts.exitcodes import ExitCode
from finetune_operator.queues.values import Place, Queue, Queues

L4 = {"nvidia.com/gpu.product": "NVIDIA-L4"}
A10G = {"cloud.google.com/gke-accelerator": "nvidia-l4", "nvidia.com/gpu.product": "NVIDIA-A10G"}


def queues(**flavors: tuple[dict[str, str], ...]) -> Queues:
    local = {name: Queue(flavors=labels) for name, labels in flavors.items()}
    return Queues(local=local)


def cluster(found: Queues | None, **spec: Any) -> Cluster:
    result = Cluster(queues=found)
    result.edit(queueName="gpu", **spec)
    return result


def cards(of: Cluster) -> list[str]:
    """Return the cards for which the prepare Job checks the memory."""
    of.settle()
    (job,) = of.list("Job")
    (argument,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    return list(json.loads(argument).get("cards", ()))


def test_a_job_waits_for_its_queue_before_anything_is_prepared() -> None:
    found = cluster(queues(other=()))
    condition = ready(found)
    namespace = found.present_job()["metadata"]["namespace"]
    assert condition["reason"] == "QueueNotFound"
    assert condition["message"] == (
        f"spec.queueName: there is no LocalQueue gpu in namespace {namespace} (LocalQueues there: "
        "other). Set spec.queueName to an existing one, or ask your cluster administrator to "
        "create this one; the job then continues."
    )
    assert found.list("Job") == []
    assert found.plan().requeue_after == 30
    found.queues = queues(gpu=())
    assert ready(found)["reason"] == "Preparing"


def test_a_missing_queue_of_a_profile_names_the_profile() -> None:
    found = Cluster(queues=queues())
    offer(found, "small", queueName="l4")
    found.edit(profile="small")
    message = ready(found)["message"]
    assert message.startswith("queueName of FineTuneProfile small: there is no LocalQueue l4 ")
    assert "it has no LocalQueue" in message
    assert "Set spec.queueName or spec.profile to another one" in message


@pytest.mark.parametrize("known", [None, queues(gpu=())])
def test_a_queue_that_exists_or_is_not_read_holds_nothing(known: Queues | None) -> None:
    found = cluster(known)
    assert ready(found)["reason"] == "Preparing"


def test_a_queue_that_was_deleted_stops_no_stage_after_training() -> None:
    found = cluster(queues(gpu=()))
    for stage in ("prepare", "train"):
        controllers.run(found, stage)
        found.settle()
    found.queues = queues()
    assert ready(found)["reason"] == "Merging"


def test_the_memory_is_checked_for_the_cards_of_the_queue() -> None:
    assert cards(cluster(queues(gpu=(L4, A10G)))) == ["NVIDIA-L4", "NVIDIA-A10G"]


@pytest.mark.parametrize("flavors", [(), (L4, {"pool": "a"})])
def test_the_card_of_a_flavor_without_a_product_is_unknown(flavors: Any) -> None:
    assert cards(cluster(queues(gpu=flavors))) == []


def test_the_card_of_a_profile_comes_before_those_of_its_queue() -> None:
    found = Cluster(queues=queues(l4=(A10G,)))
    offer(found, "small", queueName="l4", card="NVIDIA-L4")
    found.edit(profile="small")
    assert cards(found) == ["NVIDIA-L4"]
    without = Cluster()
    offer(without, "small", queueName="l4", card="NVIDIA-L4")
    without.edit(profile="small")
    assert cards(without) == ["NVIDIA-L4"], "the queues of Kueue need not be read"


def test_a_node_selector_comes_before_the_queue() -> None:
    found = cluster(queues(gpu=(A10G,)), placement={"nodeSelector": L4})
    assert cards(found) == ["NVIDIA-L4"]


def test_a_job_that_did_not_fit_is_prepared_again_for_a_queue_with_other_cards() -> None:
    found = cluster(queues(gpu=(L4,)))
    text = controllers.message("prepare", "failed", reason="DoesNotFit")
    controllers.run(found, "prepare", ExitCode.DOES_NOT_FIT, text)
    assert ready(found)["reason"] == "DoesNotFit"
    found.queues = queues(gpu=(A10G,))
    assert ready(found)["reason"] == "Preparing"


def waiting(position: int, of: int = 3) -> tuple[Cluster, Thing]:
    """Return a cluster whose train Job waits at a position."""
    found = cluster(queues(gpu=()))
    controllers.run(found, "prepare")
    found.settle()
    job = train_job(found)
    job["spec"]["suspend"] = True
    move(found, job, position, of)
    return found, job


def train_job(found: Cluster) -> Thing:
    (job,) = (each for each in found.each("Job") if "-train-" in each["metadata"]["name"])
    return job


def move(found: Cluster, job: Thing, position: int, of: int = 3) -> None:
    place = Place(position=position, waiting=of)
    assert found.queues is not None
    uid = job["metadata"]["uid"]
    found.queues = Queues(local=found.queues.local, places={uid: place})


def test_the_position_of_a_queued_job_is_in_its_status() -> None:
    found, job = waiting(2)
    condition = ready(found)
    assert condition["reason"] == "Queued"
    assert condition["message"].endswith(" to admit it. It is number 2 of 3 in the queue.")
    assert found.status["queuePosition"] == 2
    move(found, job, 1)
    ready(found)
    assert found.status["queuePosition"] == 1
    job["spec"]["suspend"] = False
    controllers.sync(found)
    assert ready(found)["reason"] == "Training"
    assert "queuePosition" not in found.status


def test_a_queue_that_is_deleted_while_a_job_waits_is_reported() -> None:
    found, _ = waiting(1)
    found.queues = queues()
    condition = ready(found)
    assert condition["reason"] == "QueueNotFound"
    assert train_job(found)["spec"]["suspend"] is True
