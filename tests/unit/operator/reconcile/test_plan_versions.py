"""State of another version of the operator: nothing is guessed, created, deleted or dropped."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, copied

from finetune_operator.reconcile.conditions import SEE_READY
from finetune_operator.revisions.versions import LEDGER_VERSION


def rename_stage(cluster: Cluster) -> None:
    """Write the ledger as a version with another name of the first stage did."""
    for revision in cluster.status["revisions"]:
        revision["stages"][0]["stage"] = "stage"


def newer_ledger(cluster: Cluster) -> None:
    cluster.status["ledgerVersion"] = LEDGER_VERSION + 1


def older_ledger(cluster: Cluster) -> None:
    cluster.status["ledgerVersion"] = LEDGER_VERSION - 1


def without_frozen_configuration(cluster: Cluster) -> None:
    del cluster.status["revisions"][0]["frozen"]


def frozen(**changes: Any) -> Callable[[Cluster], None]:
    """Change the configuration that the current revision was started with."""

    def step(cluster: Cluster) -> None:
        (revision,) = cluster.status["revisions"]
        settings = json.loads(revision["frozen"]["operator"])
        revision["frozen"]["operator"] = json.dumps({**settings, **changes})

    return step


IMAGES = {"serving": "vllm:1", "operator": "operator:1"}
STATES = {
    "ledger with an unknown stage name": (rename_stage, "stages.0.stage: "),
    "ledger of a newer format": (
        newer_ledger,
        "status.ledgerVersion is 3, but this operator supports 2",
    ),
    "ledger of an older format": (
        older_ledger,
        "status.ledgerVersion is 1, but this operator supports 2",
    ),
    "ledger without the frozen configuration": (
        without_frozen_configuration,
        "revisions.0.frozen is missing",
    ),
    "frozen configuration of another form": (frozen(images="trainer:1"), "images: "),
    "trainer image that follows a later contract": (
        frozen(images=IMAGES | {"trainer": {"image": "trainer:9", "contract": 4}}),
        "images.trainer.contract is 4, but this operator supports 1 to 3",
    ),
    "frozen default that does not exist": (
        frozen(defaults={"training": {"fieldToCome": 7}}),
        "spec.training.fieldToCome: unknown field",
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_state_of_another_version_is_reported_and_kept(state: str) -> None:
    change, cause = STATES[state]
    cluster = Cluster()
    controllers.run_all(cluster)
    change(cluster)
    before = copied(cluster.status)
    planned = cluster.plan()
    conditions = {each["type"]: each for each in planned.status["conditions"]}
    assert planned.actions == ()
    for type_ in ("Ready", "Stalled"):
        assert conditions[type_]["reason"] == "UnsupportedVersion"
    assert cause in conditions["Ready"]["message"]
    assert "delete and re-create the job" in conditions["Ready"]["message"]
    assert [event.reason for event in planned.events] == ["UnsupportedVersion"]
    reported = ("conditions", "summary", "eta")
    kept = {key: value for key, value in planned.status.items() if key not in reported}
    assert kept == {key: value for key, value in before.items() if key not in reported}
    assert planned.status["summary"].startswith("the ")
    assert conditions["Serving"]["status"] == "True"


def test_an_upgrade_resumes_a_job_that_was_reported() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    newer_ledger(cluster)
    cluster.settle()
    assert cluster.status["conditions"][0]["reason"] == "UnsupportedVersion"
    cluster.status["ledgerVersion"] = LEDGER_VERSION
    cluster.settle()
    assert cluster.status["conditions"][0]["reason"] == "Serving"
    assert [each["revision"] for each in cluster.status["revisions"]] == cluster.revisions


def test_another_revisions_unreadable_configuration_does_not_stop_the_job() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    old = cluster.status["revision"]
    cluster.edit(rerun="again")
    controllers.run_all(cluster)
    record = next(each for each in cluster.status["revisions"] if each["revision"] == old)
    record["frozen"]["operator"] = "{"
    cluster.settle()
    assert cluster.status["conditions"][0]["reason"] == "Serving"


def test_condition_of_a_failed_stage_keeps_its_message_if_ready_gets_another_one() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    controllers.run(cluster, "train", 80)
    cluster.settle()
    before = {each["type"]: each["message"] for each in cluster.status["conditions"]}
    assert before["Trained"] == SEE_READY
    newer_ledger(cluster)
    for _ in range(2):
        cluster.reconcile()
        after = {each["type"]: each["message"] for each in cluster.status["conditions"]}
        assert after["Trained"] == before["Ready"] != after["Ready"]
        assert after["Stalled"] == SEE_READY
