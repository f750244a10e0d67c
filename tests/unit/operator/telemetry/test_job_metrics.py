"""What is counted of the jobs: states, outcomes, GPU-seconds; nothing twice, nobody by name."""

from typing import Any

from prometheus_client import CollectorRegistry
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster

from finetune_operator.reconcile.plan import plan
from finetune_operator.telemetry import job_metrics
from finetune_operator.telemetry.job_metrics import Fleet
from finetune_operator.types import Plan, Snapshot

A, B = ("team-a", "one"), ("team-a", "two")


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def status(reason: str) -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "reason": reason}]}


def pod(stage: str = "serve", *, node: str = "gpu-1", phase: str = "Running") -> dict[str, Any]:
    return {
        "metadata": {"labels": {"finetune.dev/stage": stage}},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase},
    }


def samples(subject: Fleet) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(subject)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_jobs_are_counted_by_namespace_and_state() -> None:
    subject = Fleet(Clock())
    subject.saw(A, [], status("Training"))
    subject.saw(B, [], status("Training"))
    subject.saw(("team-b", "one"), [], {})
    subject.saw(B, [], status("Serving"))
    assert samples(subject) == {
        ("finetune_jobs", "team-a", "Serving"): 1,
        ("finetune_jobs", "team-a", "Training"): 1,
        ("finetune_jobs", "team-b", "Unknown"): 1,
    }
    subject.forget(A)
    subject.forget(A)
    assert ("finetune_jobs", "team-a", "Training") not in samples(subject)


def test_serving_is_counted_while_a_pod_has_a_node() -> None:
    clock = Clock()
    subject = Fleet(clock)
    spent = ("finetune_gpu_seconds_total", "team-a", "serving")
    subject.saw(A, [pod(node=""), pod(stage="train")], status("Starting"))
    clock.now += 100
    subject.saw(A, [pod(phase="Pending"), pod(phase="Failed")], status("Starting"))
    assert samples(subject)[spent] == 0
    clock.now += 60
    assert samples(subject)[spent] == 60, "the pod holds its GPU while it loads the model"
    subject.saw(A, [pod(), pod()], status("Serving"))
    clock.now += 10
    assert samples(subject)[spent] == 80
    assert samples(subject)[spent] == 80
    clock.now += 1
    subject.forget(A)
    clock.now += 1000
    assert samples(subject)[spent] == 82


def test_training_is_counted_as_reported_and_once() -> None:
    subject = Fleet(Clock())
    spent = ("finetune_gpu_seconds_total", "team-a", "training")

    def write(before: dict[str, int], after: dict[str, int]) -> None:
        old, new = (
            {"revisions": [{"revision": name, "gpuSeconds": each} for name, each in spent.items()]}
            for spent in (before, after)
        )
        job = {"metadata": {"namespace": "team-a"}, "status": old}
        job_metrics.wrote(Snapshot(job=job), Plan(status=new), subject)

    write({}, {"r1": 10})
    write({"r1": 10}, {"r1": 10})
    write({"r1": 10}, {"r1": 25})
    assert samples(subject)[spent] == 25
    write({"r1": 25}, {"r1": 25, "r2": 5})
    assert samples(subject)[spent] == 30
    write({"r1": 25, "r2": 5}, {"r2": 7})
    assert samples(subject)[spent] == 32, "a revision that goes takes nothing back"


def test_an_edit_back_to_an_earlier_revision_spends_nothing() -> None:
    cluster = Cluster()
    subject, counted = Fleet(Clock()), ("finetune_gpu_seconds_total", "ns", "training")

    def look() -> None:
        snapshot = cluster.observe()
        planned = plan(snapshot, config=cluster.config, now=cluster.now)
        job_metrics.wrote(snapshot, planned, subject)
        cluster.carry_out(snapshot, planned)

    def train(seconds: float) -> None:
        controllers.run(cluster, "prepare")
        look()
        controllers.sync(cluster)
        trainer = controllers.pod_of_stage(cluster, "train")
        controllers.start(cluster, trainer)
        controllers.finish(cluster, trainer, 0, controllers.message("train", gpuSeconds=seconds))
        controllers.sync(cluster)
        look()

    train(1000.0)
    cluster.edit(training={"seed": 1})
    look()
    train(300.0)
    cluster.edit(training={"seed": None})
    look()
    assert cluster.status["training"]["gpuSeconds"] == 1000
    assert samples(subject)[counted] == 1300


def ledger(*attempts: dict[str, Any]) -> dict[str, Any]:
    return {"revisions": [{"revision": "r1", "stages": list(attempts)}]}


def outcomes(outcome: str, reason: str, stage: str = "train") -> float:
    return float(job_metrics.STAGE_OUTCOMES.labels(stage, outcome, reason)._value.get())


def test_each_attempt_is_counted_once_by_how_it_ended() -> None:
    job = {"metadata": {"namespace": "team-a"}}
    running = {"stage": "train", "attempt": 1, "outcome": "Running"}
    stopped = {**running, "outcome": "Stopped", "reason": "Preempted"}
    failed = {**running, "attempt": 2, "outcome": "Failed", "reason": "LossDiverged"}
    course = [ledger(running), ledger(stopped), ledger(stopped), ledger(failed), ledger(failed)]
    before = (outcomes("Stopped", "Preempted"), outcomes("Failed", "LossDiverged"))
    for old, new in zip([{}, *course], course, strict=False):
        job_metrics.wrote(Snapshot(job={**job, "status": old}), Plan(status=new), Fleet(Clock()))
    assert outcomes("Stopped", "Preempted") == before[0] + 1
    assert outcomes("Failed", "LossDiverged") == before[1] + 1


def test_a_reason_that_is_no_word_does_not_become_a_label() -> None:
    failed = {"stage": "prepare", "attempt": 1, "outcome": "Failed", "reason": "row 7 of x"}
    before = outcomes("Failed", "Other", "prepare")
    job = {"metadata": {"namespace": "team-a"}}
    job_metrics.wrote(Snapshot(job=job), Plan(status=ledger(failed)), Fleet(Clock()))
    assert outcomes("Failed", "Other", "prepare") == before + 1
