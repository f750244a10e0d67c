"""The operator is killed once in each stage of a job: the job does not notice."""

from collections.abc import Iterator

import pytest
from tests.e2e import locks
from tests.e2e.killing import How, kill_operator
from tests.e2e.target import Cluster, namespaces
from tests.e2e.tuning import ATTEMPT, Tuning, condition, label, small

NAMESPACE = "e2e-operator-killed"
COURSE: tuple[tuple[str, How], ...] = (
    ("prepare", "process"),
    ("train", "pod"),
    ("merge", "process"),
    ("serve", "pod"),
)
"""In which stage the operator is killed, and how. A process that is killed twice in one pod would
be held back by the kubelet, hence the change."""

LOCKS = {locks.OPERATOR: "alone", locks.GPUS: "shared"}
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def survivor(cluster: Cluster) -> Iterator[Tuning]:
    """A job that is Ready though the operator was killed in each of its stages."""
    with namespaces(cluster, NAMESPACE):
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name="small").apply(small())
        for stage, how in COURSE:
            pod = tuning.wait_for_pod(stage, seconds=240)
            kill_operator(cluster, how)
            now = cluster.record.find("Pod", NAMESPACE, pod["metadata"]["name"])
            assert now is not None, f"the {stage} pod went away with the operator"
            assert now["status"]["phase"] == "Running", f"{stage} ended before the kill"
        tuning.wait_until("Ready", seconds=300)
        yield tuning


def test_the_job_is_ready_all_the_same(survivor: Tuning) -> None:
    status = survivor.status()
    assert condition(status, "Stalled") is None
    (revision,) = status["revisions"]
    ended = {each["stage"]: each["outcome"] for each in revision["stages"]}
    assert ended == dict.fromkeys(("prepare", "train", "merge", "serve"), "Completed")
    assert status["training"]["globalStep"] == status["training"]["maxSteps"] == 6


def test_there_was_one_job_and_one_pod_for_each_stage(survivor: Tuning) -> None:
    for stage in ("prepare", "train", "merge"):
        assert [label(job, ATTEMPT) for job in survivor.jobs(stage)] == ["1"]
        assert len(survivor.pods(stage)) == 1
    assert len(survivor.pods("serve")) == 1


def test_training_never_began_again(survivor: Tuning) -> None:
    steps = [
        step
        for event in survivor.cluster.record.events("FineTuneJob", survivor.namespace)
        if (step := event.object.get("status", {}).get("training", {}).get("globalStep"))
    ]
    assert steps == sorted(steps)
    (pod,) = survivor.pods("train")
    log = survivor.cluster.kubectl.logs(pod["metadata"]["name"], survivor.namespace)
    done = [line.split()[2] for line in log.splitlines() if line.split()[1:2] == ["step"]]
    assert done == [f"{step}/6" for step in range(1, 7)]


def test_deleting_it_takes_everything_along_within_a_minute(survivor: Tuning) -> None:
    kinds = {child.partition("/")[0] for child in survivor.children()}
    assert {"Job", "Pod", "PersistentVolumeClaim", "PersistentVolume", "Deployment"} <= kinds
    survivor.delete(seconds=60)
