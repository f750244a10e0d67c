"""A job during training: isolation, pause, resume, and deletion.

All tests of this file use one job, in this order, because training takes some time to start.
"""

import json
from collections.abc import Iterator

import pytest
from tests.support.local_cluster import pods
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.pods import SCRIPTS, Task
from tests.support.local_cluster.target import Cluster, namespaces
from tests.support.local_cluster.tuning import ATTEMPT, Tuning, label, small

NAMESPACE = "e2e-training"
STEPS = 2000
"""More steps than the test runs."""
START_SECONDS = 900.0


@pytest.fixture(scope="module")
def training(cluster: Cluster) -> Iterator[Tuning]:
    """A job that has trained some steps."""
    with namespaces(cluster, NAMESPACE):
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name="small")
        tuning.apply(small(training={"maxSteps": STEPS}))
        tuning.wait("the job trains", _step, seconds=START_SECONDS)
        yield tuning


def test_no_pod_of_the_job_has_a_token_for_the_api_server(training: Tuning) -> None:
    for stage in ("prepare", "train"):
        (pod,) = training.pods(stage)
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert not any("serviceAccountToken" in json.dumps(v) for v in pod["spec"]["volumes"])
    listed = training.cluster.kubectl.execute(
        _running(training), training.namespace, ["ls", "/var/run/secrets/kubernetes.io"]
    )
    assert listed.returncode != 0
    assert "No such file or directory" in listed.stderr


def test_the_train_pod_reaches_no_address(training: Tuning) -> None:
    """Another pod of the namespace reaches the same addresses."""
    cluster, addresses = training.cluster, _addresses(training.cluster)
    script = (SCRIPTS / "reach.py").read_text(encoding="utf-8")
    tried = cluster.kubectl.execute(
        _running(training), training.namespace, ["python", "-c", script, *addresses]
    )
    assert tried.returncode == 0, tried.stderr
    from_job = json.loads(tried.stdout.removeprefix("RESULT "))
    task = Task(script="reach.py", image=cluster.operator_image(), given=addresses)
    from_other = pods.run(cluster, training.namespace, task)
    assert from_other == dict.fromkeys(addresses, "connected")
    assert "connected" not in from_job.values(), from_job


def test_a_paused_training_resumes_from_its_checkpoint(training: Tuning) -> None:
    (first,) = training.pods("train")
    training.change(suspend=True)
    training.wait_until("Suspended", reason="SuspendedByUser", seconds=240)
    training.wait(
        "the train pod is deleted",
        lambda _: (
            training.cluster.record.find("Pod", training.namespace, first["metadata"]["name"])
            is None
        ),
        seconds=240,
    )
    volumes = training.cluster.record.present("PersistentVolumeClaim", training.namespace)
    assert [volume["status"]["phase"] for volume in volumes] == ["Bound"]
    reached = _checkpoint(training)

    training.change(suspend=False)
    pod = training.wait_for_pod("train", seconds=240, but=first["metadata"]["uid"])
    step = training.wait(
        "training continues", lambda now: _later(now, reached), seconds=START_SECONDS
    )
    assert step > reached
    assert [label(job, ATTEMPT) for job in training.jobs("train")] == ["1", "2"]
    log = training.cluster.kubectl.logs(pod["metadata"]["name"], training.namespace)
    assert f"resuming from the checkpoint of step {reached}" in log
    done = [line.split()[2] for line in log.splitlines() if line.split()[1:2] == ["step"]]
    assert done[0] == f"{reached + 1}/{STEPS}"
    steps = [
        step
        for event in training.cluster.record.events("FineTuneJob", training.namespace)
        if (step := _step(event.object.get("status", {}))) is not None
    ]
    assert steps == sorted(steps)


def test_deleting_a_training_job_deletes_all_children_within_a_minute(
    training: Tuning,
) -> None:
    _running(training)
    training.delete(seconds=60)


def _step(status: Object) -> int | None:
    step: int | None = status.get("training", {}).get("globalStep")
    return step or None


def _later(status: Object, than: int) -> int | None:
    step = _step(status)
    return step if step is not None and step > than else None


def _checkpoint(training: Tuning) -> int:
    """Return the step of the newest complete checkpoint on the volume."""
    task = Task(
        script="volume.py",
        image=training.cluster.operator_image(),
        claim=f"{training.name}-{training.status()['revision']}",
    )
    published = pods.run(training.cluster, training.namespace, task)["published"]
    steps = {
        int(name.rpartition("-")[2]): wrong
        for name, wrong in published.items()
        if name.startswith("checkpoints/step-")
    }
    assert steps[max(steps)] == []
    assert "adapter" not in published
    return max(steps)


def _running(training: Tuning) -> str:
    pod = training.wait_for_pod("train", seconds=1)
    return str(pod["metadata"]["name"])


def _addresses(cluster: Cluster) -> list[str]:
    """Return addresses of the API server and of the hub: their Services, and the pod of one."""
    api = cluster.kubectl.get("service", "kubernetes", "default")["spec"]["clusterIP"]
    hub = cluster.kubectl.get("service", "hub", "hub")["spec"]["clusterIP"]
    return [f"{api}:443", f"{hub}:80"]
