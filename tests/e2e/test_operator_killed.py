"""The operator is killed once in each stage of a job, and the job completes.

``make test`` kills it with an API server alone (tests/integration/test_crashes.py).
"""

from collections.abc import Iterator

import pytest
from tests.e2e.killing import How, kill_operator
from tests.support.local_cluster import locks
from tests.support.local_cluster.target import Cluster, namespaces
from tests.support.local_cluster.tuning import ATTEMPT, DEMO_MODEL, Tuning, condition, label, small

pytestmark = pytest.mark.exhaustive

NAMESPACE = "e2e-operator-killed"
COURSE: tuple[tuple[str, How], ...] = (
    ("prepare", "process"),
    ("train", "pod"),
    ("merge", "process"),
    ("serve", "pod"),
)
"""The stages in which the operator is killed, and how. The two ways alternate, because the kubelet
delays the restart of a process that was killed twice in one pod."""

LOCKS = {locks.OPERATOR: "alone", locks.GPUS: "shared"}


@pytest.fixture(scope="module")
def survivor(cluster: Cluster) -> Iterator[Tuning]:
    """A Ready job; the operator was killed in each of its stages."""
    with namespaces(cluster, NAMESPACE):
        # A stage of a smaller model could end before the operator is killed.
        spec = small(model={"source": DEMO_MODEL})
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name="small").apply(spec)
        for stage, how in COURSE:
            pod = tuning.wait_for_pod(stage, seconds=900)
            kill_operator(cluster, how)
            now = cluster.record.find("Pod", NAMESPACE, pod["metadata"]["name"])
            assert now is not None, f"the {stage} pod went away with the operator"
            assert now["status"]["phase"] == "Running", f"{stage} ended before the kill"
        tuning.wait_until("Ready", seconds=900)
        yield tuning


def test_the_job_becomes_ready(survivor: Tuning) -> None:
    status = survivor.status()
    assert condition(status, "Stalled") is None
    (revision,) = status["revisions"]
    ended = {each["stage"]: each["outcome"] for each in revision["stages"]}
    assert ended == dict.fromkeys(("prepare", "train", "merge", "serve"), "Completed")
    assert status["training"]["globalStep"] == status["training"]["maxSteps"] == 6


def test_each_stage_had_one_job_and_one_pod(survivor: Tuning) -> None:
    for stage in ("prepare", "train", "merge"):
        assert [label(job, ATTEMPT) for job in survivor.jobs(stage)] == ["1"]
        assert len(survivor.pods(stage)) == 1
    assert len(survivor.pods("serve")) == 1


def test_training_was_not_restarted(survivor: Tuning) -> None:
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
