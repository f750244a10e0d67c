"""Which changes of a status wait, and for how long."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import START, Cluster, copied
from tests.fakes.kube_client import MemoryKube
from tests.fakes.pod_metrics import FakePodMetrics

from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.quiet import SECONDS, RecentWrites, is_progress
from finetune_operator.kube.recorder import Recorder
from finetune_operator.objects.contents import without_empty
from finetune_operator.snapshot.reader import Reader
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.types import Plan, Progress

WITHIN = timedelta(seconds=SECONDS - 1)


def waits(cluster: Cluster) -> bool:
    """Report whether the next status of a job, which must differ, may wait."""
    planned = cluster.plan()
    before, after = without_empty(cluster.status), without_empty(planned.status)
    assert before != after
    return is_progress(planned, before, after)


def test_progress_waits() -> None:
    cluster = Cluster()
    cluster.settle()
    controllers.sync(cluster)
    pod = controllers.pod_of_stage(cluster, "prepare")
    controllers.start(cluster, pod)
    cluster.settle()
    cluster.progress = Progress(
        pod=pod["metadata"]["uid"], ratio=0.5, downloaded_bytes=5, total_bytes=10
    )
    assert waits(cluster)


def test_the_ledger_never_waits() -> None:
    cluster = Cluster()
    cluster.reconcile()
    assert not waits(cluster), "the Job was observed"
    cluster.settle()
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "prepare"))
    assert not waits(cluster), "its pod was observed"


def _ended(cluster: Cluster) -> None:
    controllers.finish(
        cluster, controllers.pod_of_stage(cluster, "prepare"), 0, controllers.message("prepare")
    )
    controllers.sync(cluster)


def _edited(cluster: Cluster) -> None:
    cluster.edit(serving={"replicas": 0})


def _suspended(cluster: Cluster) -> None:
    cluster.edit(suspend=True)


def _unschedulable(cluster: Cluster) -> None:
    pod = controllers.pod_of_stage(cluster, "prepare")
    pod["status"] = {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/1 nodes are available",
                "lastTransitionTime": cluster.stamp(),
            }
        ],
    }
    cluster.touch(pod)


@pytest.mark.parametrize("change", [_ended, _edited, _suspended, _unschedulable])
def test_changes_that_someone_acts_on_do_not_wait(change: Callable[[Cluster], None]) -> None:
    cluster = Cluster()
    cluster.settle()
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "prepare"))
    cluster.settle()
    change(cluster)
    assert not waits(cluster)


def test_the_last_change_of_a_job_that_rests_does_not_wait() -> None:
    assert not is_progress(Plan(status={}), {"progress": "1%"}, {"progress": "2%"})
    assert is_progress(Plan(status={}, requeue_after=15.0), {"progress": "1%"}, {"progress": "2%"})


def test_only_recent_writes_are_remembered() -> None:
    recent = RecentWrites()
    recent.add("first", START)
    assert recent.contains("first", START + WITHIN)
    assert not recent.contains("first", START + timedelta(seconds=SECONDS))
    assert not recent.contains("first", START - WITHIN), "the clock was set back"
    assert not recent.contains("other", START)
    recent.add("second", START + timedelta(seconds=SECONDS))
    assert not recent.contains("first", START), "forgotten"


async def test_progress_is_written_once_the_last_write_is_old() -> None:
    cluster = Cluster()
    cluster.reconcile()
    job: dict[str, Any] = copied(cluster.present_job())
    job["status"] = {"progress": "1%", "conditions": []}
    kube = MemoryKube(job)
    executor = PlanExecutor(kube=kube, recorder=Recorder(kube, instance="pod"))

    async def execute(progress: str, seconds: float) -> int:
        reader = Reader(kube=kube, store=ObjectStore(), metrics=FakePodMetrics())
        snapshot = await reader.read(("ns", "demo"))
        assert snapshot is not None
        plan = Plan(status={"progress": progress, "conditions": []}, requeue_after=15.0)
        now = START + timedelta(seconds=seconds)
        return await executor.execute(snapshot, plan, now, applied={})

    assert await execute("2%", 0) == 1, "nothing was written recently"
    assert await execute("3%", 1) == 0
    assert await execute("4%", SECONDS - 1) == 0
    assert await execute("4%", SECONDS) == 1
