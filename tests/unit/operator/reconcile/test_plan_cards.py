"""The card that trains a revision: recorded with its first checkpoint, required to resume."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.support.reconcile.plan_steps import (
    PREPARED,
    RESUME,
    SUSPEND,
    delete,
    running,
    settle,
    stop,
    sync,
)

from finetune_operator.config import GpuConfig
from finetune_operator.manifests.gpu.node_labels import values_of
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.types import PodProgress

L4 = values_of(["NVIDIA-L4"])
ANY = values_of(GpuConfig().products)


def training(card: str | None = "NVIDIA-L4", *, checkpoint: int | None = 5) -> Cluster:
    """Return a cluster whose train pod reports its card and its last checkpoint."""
    cluster = Cluster()
    for step in (PREPARED, running("train")):
        step(cluster)
    report(cluster, card, checkpoint)
    return cluster


def report(cluster: Cluster, card: str | None, checkpoint: int | None) -> None:
    cluster.progress = PodProgress(
        pod="", global_step=9, last_checkpoint_step=checkpoint, card=card
    )
    cluster.settle()
    cluster.progress = None


def attempt_again(cluster: Cluster) -> dict[str, Any]:
    """Pause and resume the job; return the labels that the next train pod requires."""
    for step in (SUSPEND, stop("train"), RESUME, settle, sync):
        step(cluster)
    return required(controllers.pod_of_stage(cluster, "train"))


def required(pod: dict[str, Any]) -> dict[str, Any]:
    affinity = pod["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (expressions,) = zip(*(term["matchExpressions"] for term in terms), strict=True)
    return {each["key"]: each["values"] for each in expressions}


def recorded(cluster: Cluster) -> str | None:
    card: str | None = cluster.status["revisions"][-1].get("card")
    return card


@pytest.mark.parametrize(
    ("card", "checkpoint", "kept", "labels"),
    [
        ("NVIDIA-L4", 5, "NVIDIA-L4", L4),
        ("NVIDIA-L4", None, None, ANY),
        (None, 5, None, ANY),
        ("NVIDIA-H200", 5, "NVIDIA-H200", ANY),
    ],
    ids=["checkpoint", "no checkpoint", "unknown card", "card that the chart does not list"],
)
def test_the_next_attempt_keeps_the_card_of_a_checkpoint(
    card: str | None, checkpoint: int | None, kept: str | None, labels: dict[str, Any]
) -> None:
    cluster = training(card, checkpoint=checkpoint)
    assert recorded(cluster) == kept
    assert required(controllers.pod_of_stage(cluster, "train")) == ANY
    assert attempt_again(cluster) == labels


def test_the_card_of_the_first_checkpoint_is_kept() -> None:
    cluster = training()
    report(cluster, "NVIDIA-A10", 6)
    assert recorded(cluster) == "NVIDIA-L4"


def test_serving_does_not_need_the_card_of_the_training() -> None:
    cluster = training()
    for stage in ("train", "merge"):
        controllers.run(cluster, stage)
    controllers.serve(cluster)
    assert required(controllers.pod_of_stage(cluster, "serve")) == ANY
    assert recorded(cluster) == "NVIDIA-L4"


def test_a_lost_volume_frees_the_card() -> None:
    cluster = training()
    for step in (delete("PersistentVolumeClaim", "demo-R"), settle, stop("train"), settle):
        step(cluster)
    assert recorded(cluster) is None


def test_a_ledger_without_cards_is_read() -> None:
    (recorded_revision,) = training().status["revisions"]
    del recorded_revision["card"]
    (revision,) = Ledger.parse([recorded_revision]).revisions.values()
    assert revision.card is None
