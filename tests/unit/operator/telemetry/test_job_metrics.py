"""Job metrics: states, outcomes and GPU-seconds, counted once and without names of jobs."""

from typing import Any

from prometheus_client import CollectorRegistry
from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, Cluster

from finetune_operator.reconcile.plan import plan
from finetune_operator.telemetry import job_metrics
from finetune_operator.telemetry.endpoint_metrics import EndpointMetrics
from finetune_operator.telemetry.gpu_seconds import GpuSeconds
from finetune_operator.telemetry.job_metrics import JobMetrics
from finetune_operator.types import EndpointSnapshot, Key, Object, Plan, Snapshot

A, B = ("team-a", "one"), ("team-a", "two")


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def reconciled(metrics: JobMetrics, key: Key, pods: list[Object], status: Object) -> None:
    metrics.observed(key, Snapshot(settings=CONFIG, job={}, pods=tuple(pods)), status)


def status(reason: str) -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "reason": reason}]}


def pod(stage: str = "serve", *, node: str = "gpu-1", phase: str = "Running") -> dict[str, Any]:
    return {
        "metadata": {"labels": {"finetune.dev/stage": stage}},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase},
    }


def samples(metrics: JobMetrics) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(metrics)
    registry.register(metrics.gpu_seconds)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_jobs_are_counted_by_namespace_and_reason() -> None:
    metrics = JobMetrics(GpuSeconds(Clock()))
    reconciled(metrics, A, [], status("Training"))
    reconciled(metrics, B, [], status("Training"))
    reconciled(metrics, ("team-b", "one"), [], {})
    reconciled(metrics, B, [], status("Serving"))
    assert samples(metrics) == {
        ("finetune_jobs", "team-a", "Serving"): 1,
        ("finetune_jobs", "team-a", "Training"): 1,
        ("finetune_jobs", "team-b", "Unknown"): 1,
    }
    metrics.forget(A)
    metrics.forget(A)
    assert ("finetune_jobs", "team-a", "Training") not in samples(metrics)


def test_gpu_seconds_of_serving_count_while_a_pod_has_a_node() -> None:
    clock = Clock()
    metrics = JobMetrics(GpuSeconds(clock))
    serving = ("finetune_gpu_seconds_total", "team-a", "serving")
    reconciled(metrics, A, [pod(node=""), pod(stage="train")], status("Starting"))
    clock.now += 100
    reconciled(metrics, A, [pod(phase="Pending"), pod(phase="Failed")], status("Starting"))
    assert samples(metrics)[serving] == 0
    clock.now += 60
    assert samples(metrics)[serving] == 60, "the pod holds its GPU while it loads the model"
    reconciled(metrics, A, [pod(), pod()], status("Serving"))
    clock.now += 10
    assert samples(metrics)[serving] == 80
    assert samples(metrics)[serving] == 80
    clock.now += 1
    metrics.forget(A)
    clock.now += 1000
    assert samples(metrics)[serving] == 82


def test_the_pod_of_an_endpoint_is_serving_time_of_its_namespace() -> None:
    clock = Clock()
    metrics = JobMetrics(GpuSeconds(clock))
    endpoints = EndpointMetrics(metrics.gpu_seconds)
    serving = ("finetune_gpu_seconds_total", "team-a", "serving")
    pods = (pod("serve-shared"), pod("prune-shared"))
    # A job of the same name has a pod of its own.
    reconciled(metrics, A, [pod()], status("Serving"))
    endpoints.observed(A, EndpointSnapshot(settings=CONFIG, endpoint={}, pods=pods), {})
    clock.now += 10
    assert samples(metrics)[serving] == 20
    endpoints.forget(A)
    clock.now += 10
    assert samples(metrics)[serving] == 30


def test_gpu_seconds_of_training_are_counted_once() -> None:
    metrics = JobMetrics(GpuSeconds(Clock()))
    training = ("finetune_gpu_seconds_total", "team-a", "training")

    def write(before: dict[str, int], after: dict[str, int]) -> None:
        old, new = (
            {
                "revisions": [
                    {"revision": name, "gpuSeconds": each} for name, each in seconds.items()
                ]
            }
            for seconds in (before, after)
        )
        job = {"metadata": {"namespace": "team-a"}, "status": old}
        metrics.written(Snapshot(settings=CONFIG, job=job), Plan(status=new))

    write({}, {"r1": 10})
    write({"r1": 10}, {"r1": 10})
    write({"r1": 10}, {"r1": 25})
    assert samples(metrics)[training] == 25
    write({"r1": 25}, {"r1": 25, "r2": 5})
    assert samples(metrics)[training] == 30
    write({"r1": 25, "r2": 5}, {"r2": 7})
    assert samples(metrics)[training] == 32, "removing a revision subtracts nothing"


def test_an_edit_back_to_an_earlier_revision_counts_nothing() -> None:
    cluster = Cluster()
    metrics = JobMetrics(GpuSeconds(Clock()))
    training = ("finetune_gpu_seconds_total", "ns", "training")

    def reconcile() -> None:
        snapshot = cluster.observe()
        planned = plan(snapshot, now=cluster.now)
        metrics.written(snapshot, planned)
        cluster.carry_out(snapshot, planned)

    def train(seconds: float) -> None:
        controllers.run(cluster, "prepare")
        reconcile()
        controllers.sync(cluster)
        trainer = controllers.pod_of_stage(cluster, "train")
        controllers.start(cluster, trainer)
        cluster.wait(seconds)
        controllers.finish(cluster, trainer, 0, controllers.message("train", gpuSeconds=seconds))
        controllers.sync(cluster)
        reconcile()

    train(1000.0)
    cluster.edit(training={"seed": 1})
    reconcile()
    train(300.0)
    cluster.edit(training={"seed": None})
    reconcile()
    assert cluster.status["training"]["gpuSeconds"] == 1000
    assert samples(metrics)[training] == 1300


def ledger(*attempts: dict[str, Any]) -> dict[str, Any]:
    return {"revisions": [{"revision": "r1", "stages": list(attempts)}]}


def outcomes(outcome: str, reason: str, stage: str = "train") -> float:
    return float(job_metrics.STAGE_OUTCOMES.labels("team-a", stage, outcome, reason)._value.get())


def test_each_attempt_is_counted_once_by_outcome_and_reason() -> None:
    job = {"metadata": {"namespace": "team-a"}}
    running = {"stage": "train", "attempt": 1, "outcome": "Running"}
    stopped = {**running, "outcome": "Stopped", "reason": "Preempted"}
    failed = {**running, "attempt": 2, "outcome": "Failed", "reason": "LossDiverged"}
    history = [ledger(running), ledger(stopped), ledger(stopped), ledger(failed), ledger(failed)]
    before = (outcomes("Stopped", "Preempted"), outcomes("Failed", "LossDiverged"))
    for old, new in zip([{}, *history], history, strict=False):
        snapshot = Snapshot(settings=CONFIG, job={**job, "status": old})
        JobMetrics(GpuSeconds(Clock())).written(snapshot, Plan(status=new))
    assert outcomes("Stopped", "Preempted") == before[0] + 1
    assert outcomes("Failed", "LossDiverged") == before[1] + 1


def test_a_reason_that_is_not_one_word_is_counted_as_other() -> None:
    failed = {"stage": "prepare", "attempt": 1, "outcome": "Failed", "reason": "row 7 of x"}
    before = outcomes("Failed", "Other", "prepare")
    job = {"metadata": {"namespace": "team-a"}}
    snapshot, planned = Snapshot(settings=CONFIG, job=job), Plan(status=ledger(failed))
    JobMetrics(GpuSeconds(Clock())).written(snapshot, planned)
    assert outcomes("Failed", "Other", "prepare") == before + 1
