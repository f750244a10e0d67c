"""Every live confirmation is necessary: without it, a stale cache causes harm.

Each case prepares a cluster whose last events are late for some kinds, and then reconciles once,
with all confirmations and without the one that it is about.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.fakes.lagging_operator import KINDS, LaggingOperator

from finetune_operator.controller.reconciler import Reconciler
from finetune_operator.kube.kinds import FINETUNEJOB
from finetune_operator.objects import naming
from finetune_operator.objects.stages import PIPELINE
from finetune_operator.reconcile import confirmation
from finetune_operator.types import UNCONFIRMED, Confirmation

ALL_BUT_THE_JOB = dict.fromkeys(set(KINDS) - {FINETUNEJOB}, 1000)


def serve_without_requests(cluster: Cluster) -> None:
    cluster.edit(serving={"idle": {"afterSeconds": 600}})
    controllers.run_all(cluster)
    cluster.settle()
    cluster.wait(600)


def delete_the_claim(cluster: Cluster) -> None:
    for claim in cluster.each(naming.VOLUME):
        cluster.mark_deleted(claim)


@dataclass(frozen=True, kw_only=True)
class Case:
    """``happens`` are the events after the operator has started; ``harmed`` is asked at the end."""

    before: Callable[[Cluster], None] = lambda cluster: None
    happens: Callable[[Cluster], None]
    late: Mapping[str, int]
    harmed: Callable[[Cluster], Any]


def train(cluster: Cluster) -> None:
    controllers.run(cluster, "prepare")
    cluster.settle()
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    cluster.settle()


def complete_training(cluster: Cluster) -> None:
    pod = controllers.pod_of_stage(cluster, "train")
    controllers.finish(cluster, pod, 0, controllers.message("train"))
    controllers.sync(cluster)


def prepare_beside_an_orphan(cluster: Cluster) -> None:
    """A train pod of this job runs, though its Job was deleted."""
    controllers.run(cluster, "prepare")
    (pod,) = cluster.each("Pod")
    labels = {**pod["metadata"]["labels"], naming.STAGE: "train"}
    metadata = {"name": "orphan", "labels": labels, "ownerReferences": []}
    cluster.add({**pod, "metadata": metadata, "status": {"phase": "Running"}})


def prepare(cluster: Cluster) -> None:
    controllers.run(cluster, "prepare")


def lose_the_claim(cluster: Cluster) -> None:
    """A user has also removed its finalizer, so it is gone at once."""
    (claim,) = cluster.each(naming.VOLUME)
    cluster.remove(claim)


def train_a_third_revision(cluster: Cluster) -> None:
    """The first one serves; the second one is the newest with a model, which is always retained."""
    controllers.run_all(cluster)
    cluster.edit(training={"seed": 7})
    for stage in ("prepare", "train", "merge"):
        controllers.run(cluster, stage)
    cluster.settle()
    cluster.edit(training={"seed": 8}, revisionHistoryLimit=0)


def lose_the_volume_and_train_another_revision(cluster: Cluster) -> None:
    """The serving pods keep a deleted volume until they end."""
    controllers.run_all(cluster)
    (volume,) = cluster.each(naming.VOLUME)
    cluster.mark_deleted(volume)
    cluster.settle()
    cluster.edit(training={"seed": 7}, revisionHistoryLimit=0)


def serve_and_restore(cluster: Cluster) -> None:
    controllers.run_all(cluster)
    controllers.restore(cluster)


def adopt_the_claim(cluster: Cluster) -> None:
    """Another replica makes the job the owner of its restored claim."""
    cluster.settle()


def delete_a_policy_and_the_job(cluster: Cluster) -> None:
    policy = cluster.get("NetworkPolicy", "demo-work")
    assert policy is not None
    cluster.remove(policy)
    cluster.delete_job()


def first_revision(cluster: Cluster) -> bool:
    return any(each["revision"] == cluster.revisions[0] for each in cluster.status["revisions"])


CASES = {
    "train": Case(
        happens=prepare_beside_an_orphan,
        late={"Pod": 1},
        harmed=lambda cluster: any(
            each["metadata"]["labels"][naming.STAGE] == "train" for each in cluster.each("Job")
        ),
    ),
    "attempt": Case(
        before=train,
        happens=complete_training,
        late={"Pod": 1},
        harmed=lambda cluster: (
            cluster.status["revisions"][0]["stages"][1]["outcome"] != "Completed"
        ),
    ),
    "delete": Case(
        happens=train_a_third_revision,
        late=ALL_BUT_THE_JOB,
        harmed=lambda cluster: any(
            "deletionTimestamp" in each["metadata"] for each in cluster.each(naming.VOLUME)
        ),
    ),
    "revision": Case(
        happens=lose_the_volume_and_train_another_revision,
        late=ALL_BUT_THE_JOB,
        harmed=lambda cluster: not first_revision(cluster),
    ),
    "volume": Case(
        before=serve_and_restore,
        happens=adopt_the_claim,
        late={naming.VOLUME: 1},
        harmed=lambda cluster: cluster.status["conditions"][0]["reason"] == "VolumeLost",
    ),
    "idle": Case(
        before=serve_without_requests,
        happens=delete_the_claim,
        late={naming.VOLUME: 1},
        harmed=lambda cluster: any(
            each["spec"]["replicas"] == 0 for each in cluster.each("Deployment")
        ),
    ),
    "owner": Case(
        before=controllers.run_all,
        happens=delete_a_policy_and_the_job,
        late={FINETUNEJOB: 1},
        harmed=lambda cluster: cluster.get("NetworkPolicy", "demo-work"),
    ),
}


def harmed(case: Case) -> bool:
    """Reconcile once in the state of a case; report whether there is harm."""
    cluster = Cluster()
    case.before(cluster)
    operator = LaggingOperator(cluster)
    case.happens(cluster)
    operator.catch_up(case.late)
    observed = operator.observe(cluster.now, cluster.config)
    assert observed is not None
    cluster.carry_out(*observed, on_write=operator.wrote)
    return bool(case.harmed(cluster))


@pytest.mark.parametrize("cause", CASES)
def test_a_confirmation_prevents_harm(cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not harmed(CASES[cause])
    confirmed, causes = Reconciler._confirmation, []

    def without(*plan: Any) -> Confirmation:
        found = confirmed(*plan)
        causes.append(found.cause)
        return UNCONFIRMED if found.cause == cause else found

    monkeypatch.setattr(Reconciler, "_confirmation", without)
    assert harmed(CASES[cause]), causes


def test_no_trainer_starts_without_its_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    late = {naming.VOLUME: 1}
    case = replace(CASES["train"], before=prepare, happens=lose_the_claim, late=late)
    assert not harmed(case)
    monkeypatch.setattr(confirmation, "_OF_STAGES", frozenset({"Job", "Pod"}))
    assert harmed(case)


def test_each_confirmation_has_a_case() -> None:
    named = set(re.findall(r'Confirmation\("(\w+)"', inspect.getsource(confirmation)))
    assert named | {"owner"} | {stage.name for stage in PIPELINE if stage.gpu} == set(CASES)
