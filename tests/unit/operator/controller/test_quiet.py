"""Which changes of a status wait, and for how long."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import START, Cluster, copied
from tests.fakes.kube_client import MemoryKube
from tests.fakes.lagging_operator import LaggingOperator
from tests.fakes.pod_metrics import FakePodMetrics

from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.quiet import SECONDS, StatusWrites, is_progress
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


def test_the_first_observation_of_a_job_and_its_pod_waits() -> None:
    cluster = Cluster()
    cluster.reconcile()
    assert waits(cluster), "the Job was observed, with its uid"
    controllers.sync(cluster)
    assert waits(cluster), "its pod was observed, too"
    controllers.start(cluster, controllers.pod_of_stage(cluster, "prepare"))
    assert waits(cluster), "its pod runs"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"outcome": "Starting"}, {"outcome": "Completed"}),
        ({"outcome": "Running"}, {"outcome": "Running", "pod": "another"}),
        ({"outcome": "Starting"}, {"outcome": "Running", "failures": 1}),
        ({"outcome": "Starting"}, {"outcome": "Running", "attempt": 2}),
    ],
)
def test_other_changes_of_an_attempt_do_not_wait(before: Any, after: Any) -> None:
    def status(attempt: Any) -> Any:
        known = {"stage": "train", "attempt": 1, "pod": "first"}
        return {"revisions": [{"revision": "r1", "stages": [{**known, **attempt}]}]}

    plan = Plan(status={}, requeue_after=15.0)
    assert is_progress(plan, status({"outcome": "Starting"}), status({"outcome": "Running"}))
    ran = {"outcome": "Running", "hasRun": True, "imageID": "i"}
    assert is_progress(plan, status({"outcome": "Running"}), status(ran))
    assert not is_progress(plan, status(before), status(after))


def test_gpu_seconds_wait_and_the_card_of_a_checkpoint_does_not() -> None:
    """A resumed training depends on the card, also if the operator ends before the next write."""
    plan = Plan(status={}, requeue_after=15.0)

    def status(**measured: Any) -> Any:
        attempt = {"stage": "train", "attempt": 1, "outcome": "Running"}
        return {"revisions": [{"revision": "r1", "stages": [attempt], **measured}]}

    started = "2030-01-01T00:00:00+00:00"
    assert is_progress(plan, status(), status(trainingStarted=started, gpuSeconds=1))
    assert is_progress(plan, status(gpuSeconds=1), status(gpuSeconds=2))
    assert not is_progress(plan, status(), status(card="NVIDIA-A10G"))


@pytest.mark.parametrize("part", ["revisions", "stages", "volume"])
def test_other_changes_of_the_ledger_do_not_wait(part: str) -> None:
    plan = Plan(status={}, requeue_after=15.0)
    attempt = {"stage": "train", "attempt": 1, "outcome": "Running"}
    revision: dict[str, Any] = {"revision": "r1", "stages": [attempt]}
    more = {
        "revisions": [revision, {**revision, "revision": "r2"}],
        "stages": [{**revision, "stages": [attempt, {**attempt, "stage": "merge"}]}],
        "volume": [{**revision, "volume": "uid"}],
    }
    assert is_progress(plan, {"revisions": [revision]}, {"revisions": [revision], "eta": "1m"})
    assert not is_progress(plan, {"revisions": [revision]}, {"revisions": more[part]})


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


def test_the_result_of_a_verification_waits_for_the_write_of_the_endpoint() -> None:
    before = {"verification": {"outcome": "Pending"}, "warnings": []}
    after = {"verification": {"outcome": "Verified"}, "warnings": []}
    assert is_progress(Plan(status={}, requeue_after=15.0), before, after)
    assert not is_progress(Plan(status={}), before, after), "the job rests"


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


def test_a_deleted_job_is_reported_though_its_observation_waited() -> None:
    cluster = Cluster()
    operator = LaggingOperator(cluster)

    def reconcile() -> Plan:
        operator.catch_up()
        observed = operator.observe(cluster.now, cluster.config)
        assert observed is not None
        if not operator.waits(*observed):
            cluster.carry_out(*observed, on_write=operator.wrote)
        return observed[1]

    def attempt() -> Any:
        return cluster.status["revisions"][0]["stages"][0]

    reconcile()
    reconcile()
    assert attempt()["outcome"] == "Starting", "the observation waits"
    (job,) = cluster.each("Job")
    cluster.remove(job)
    planned = reconcile()
    assert [event.reason for event in planned.events] == ["JobDeleted"]
    assert (attempt()["attempt"], attempt()["disruptions"]) == (2, 1)


def test_only_recent_writes_let_a_status_wait() -> None:
    statuses = StatusWrites()
    assert statuses.quiet_for(START) == 0
    statuses.wrote(START)
    assert statuses.quiet_for(START + WITHIN) == SECONDS - WITHIN.total_seconds()
    assert statuses.quiet_for(START + timedelta(seconds=SECONDS)) == 0
    assert statuses.quiet_for(START - WITHIN) == 0, "the clock was set back"


def test_the_next_plan_starts_from_the_status_that_waits() -> None:
    statuses, job = StatusWrites(), {"status": {"eta": "2m"}}
    assert statuses.latest(job) == job
    statuses.wait(job, {"eta": "1m"})
    assert statuses.latest(job) == {"status": {"eta": "1m"}}
    edited = {**job, "spec": {"suspend": True}}
    assert statuses.latest(edited) == {"status": {"eta": "1m"}, "spec": {"suspend": True}}
    another = {"status": {"eta": "5m"}}
    assert statuses.latest(another) == another, "it was written by another operator"
    statuses.wrote(START)
    assert statuses.latest(job) == job


class Executing:
    """Executes plans that only change the status of a job."""

    def __init__(self, status: Any) -> None:
        cluster = Cluster()
        cluster.reconcile()
        job: dict[str, Any] = copied(cluster.present_job())
        job["status"] = status
        self.kube = MemoryKube(job)
        self.executor = PlanExecutor(kube=self.kube, recorder=Recorder(self.kube, instance="pod"))
        self.statuses = StatusWrites()

    async def execute(self, status: Any, seconds: float, *, remembers: bool = True) -> int:
        """Return the number of writes. seconds: since the start; remembers: earlier writes."""
        reader = Reader(kube=self.kube, store=ObjectStore(), metrics=FakePodMetrics())
        snapshot = await reader.read(("ns", "demo"))
        assert snapshot is not None
        plan = Plan(status=status, requeue_after=15.0)
        now = START + timedelta(seconds=seconds)
        statuses = self.statuses if remembers else None
        return await self.executor.execute(snapshot, plan, now, applied={}, statuses=statuses)

    def latest(self) -> Any:
        """Return the status from which the next plan starts."""
        return self.statuses.latest(self.kube.objects["FineTuneJob", "ns", "demo"])["status"]


async def test_progress_is_written_once_the_last_write_is_old() -> None:
    run = Executing({"progress": "1%", "conditions": []})

    async def execute(progress: str, seconds: float) -> int:
        return await run.execute({"progress": progress, "conditions": []}, seconds)

    assert await execute("2%", 0) == 1, "nothing was written recently"
    assert await execute("3%", 1) == 0
    assert run.latest()["progress"] == "3%"
    assert await execute("4%", SECONDS - 1) == 0
    assert run.latest()["progress"] == "4%"
    assert await execute("2%", SECONDS - 1) == 0
    assert run.latest()["progress"] == "2%", "as it was written"
    assert await execute("4%", SECONDS) == 1


async def test_an_observation_waits_for_ten_seconds_of_its_own() -> None:
    """A stage that ends within this time needs no write for its start."""

    def status(**attempt: Any) -> Any:
        known = {"stage": "merge", "attempt": 1, **attempt}
        return {"conditions": [], "revisions": [{"revision": "r1", "stages": [known]}]}

    run = Executing(status(outcome="Starting"))
    assert await run.execute(status(outcome="Running"), 90, remembers=False) == 1
    run = Executing(status(outcome="Starting"))
    assert await run.execute(status(outcome="Running", job="j"), 100) == 0
    assert await run.execute(status(outcome="Running", job="j", pod="p"), 105) == 0
    assert run.latest() == status(outcome="Running", job="j", pod="p")
    assert await run.execute(status(outcome="Running", job="j", pod="p"), 100 + SECONDS) == 1
    assert await run.execute(status(outcome="Completed", job="j", pod="p"), 111) == 1
