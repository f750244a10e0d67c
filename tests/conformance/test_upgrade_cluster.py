"""An upgrade from an earlier commit on the local cluster, with its operator and trainer images.

At the upgrade, jobs are in every stage. The processes of these stages are stopped meanwhile, so
that no stage ends too early. Afterwards, some stages continue and others are killed and retried;
their Jobs run the frozen trainer image, which reads a command line (``manifests.argv_v1``).
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conformance import earlier_version, stage_process
from tests.conformance.earlier_version import EarlierVersion
from tests.support.local_cluster import gpus, locks, recorder
from tests.support.local_cluster.kubectl import Kubectl, KubectlError, Object
from tests.support.local_cluster.target import (
    Cluster,
    create_namespaces,
    dev_cluster,
    empty_namespaces,
    remove_leftovers,
)
from tests.support.local_cluster.tuning import (
    ATTEMPT,
    DEMO_MODEL,
    JOB,
    STAGE,
    Tuning,
    condition,
    label,
    small,
)

from cluster import install, kubectl
from cluster.artifacts import binaries
from finetune_operator.manifests import jobs, vllm

COMMIT = "c4ef82fc4cfc417c7b9616ea18a4292530b03c90"
"""The newest commit whose operator knows neither the typed requests nor the table of stages."""
NAMESPACE = "e2e-upgrade"
STAGES = ("prepare", "train", "merge")
SECONDS = 900.0
STEPS_BEFORE, STEPS = 2, 20
"""Steps of a train pod before it is held, so that there is a checkpoint, and of the training."""

SERVING = "serving"
"""The job that is Ready at the upgrade."""
STARTING = "starting"
"""The job whose endpoint starts at the upgrade."""
HELD: Mapping[str, str] = {
    **{f"continued-{stage}": stage for stage in STAGES},
    **{f"retried-{stage}": stage for stage in STAGES},
    STARTING: "serve",
}
"""The jobs of which a stage is held, with that stage."""
ALL = (*HELD, SERVING)

pytestmark = pytest.mark.timeout(5400)


@dataclass(frozen=True, kw_only=True)
class Before:
    """A job and the Jobs of its stages before the upgrade."""

    status: Object
    jobs: Mapping[str, list[Object]]


@dataclass(frozen=True, kw_only=True)
class Upgraded:
    """The cluster after the upgrade, and the jobs before it."""

    cluster: Cluster
    earlier: EarlierVersion
    before: Mapping[str, Before]

    def tuning(self, name: str) -> Tuning:
        return Tuning(cluster=self.cluster, namespace=NAMESPACE, name=name)

    def pod(self, name: str) -> Object:
        """Return the pod of the stage that is held."""
        (pod,) = _running(self.cluster, name)
        return pod


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    """The cluster with the operator of this checkout, which replaced the earlier one."""
    with locks.held({locks.OPERATOR: "alone", locks.GPUS: "alone"}):
        for command in ("up", "hub"):
            dev_cluster(command)
        binaries.ensure(binaries.HELM)
        programs = Path(dev_cluster("assets").splitlines()[-1])
        kubeconfig = Path(dev_cluster("kubeconfig").splitlines()[-1])
        client = Kubectl(program=programs / "kubectl", kubeconfig=kubeconfig)
        remove_leftovers(client)
        try:
            with earlier_version.built(COMMIT, tmp_path_factory.mktemp("earlier")) as earlier:
                before = _before(client, earlier)
                dev_cluster("install")
                # Not the recording of before: an upgrade of the CRD interrupts its watches.
                with recorder.recording(client) as record:
                    cluster = Cluster(kubectl=client, record=record)
                    cluster.wait_for_operator()
                    assert cluster.operator_image() != earlier.images.operator
                    yield Upgraded(cluster=cluster, earlier=earlier, before=before)
        finally:
            dev_cluster("install")
            with recorder.recording(client) as record:
                _clean(Cluster(kubectl=client, record=record))


def _clean(cluster: Cluster) -> None:
    # A process that is still held ignores SIGTERM.
    with suppress(KubectlError):
        options = (f"--namespace={NAMESPACE}", "--all", "--grace-period=1", "--wait=false")
        cluster.kubectl.run("delete", "pods", *options)
    empty_namespaces(cluster, NAMESPACE)
    gpus.advertise(cluster)


def _before(client: Kubectl, earlier: EarlierVersion) -> dict[str, Before]:
    """Install the earlier version, and hold a job in each stage."""
    install.install(kubectl.local(), earlier.images, values=earlier.values, chart=earlier.chart)
    with recorder.recording(client) as record:
        cluster = Cluster(kubectl=client, record=record)
        cluster.wait_for_operator()
        assert cluster.operator_image() == earlier.images.operator
        gpus.advertise(cluster, gpus.PLENTY)
        create_namespaces(client, NAMESPACE)
        tunings = {
            name: Tuning(cluster=cluster, namespace=NAMESPACE, name=name).apply(_spec(name))
            for name in ALL
        }
        left = set(HELD)
        while left:
            name, pod = record.wait(
                f"one of {', '.join(sorted(left))} is in its stage",
                lambda: _reached(tunings, left),
                seconds=SECONDS,
            )
            stage_process.hold(pod, _container(HELD[name]))
            left.remove(name)
        tunings[SERVING].wait_until("Ready", reason="Serving", seconds=SECONDS)
        for name in HELD:
            assert len(_running(cluster, name)) == 1, f"{name} ended before it was held"
        return {
            name: Before(
                status=tuning.status(), jobs={stage: tuning.jobs(stage) for stage in STAGES}
            )
            for name, tuning in tunings.items()
        }


def _spec(name: str) -> dict[str, Any]:
    changes: dict[str, Any] = {
        # Held pods leave room for others on a node with two cores.
        "resources": {
            "train": {
                "requests": {"cpu": "50m", "memory": "512Mi"},
                "limits": {"memory": "10Gi"},
            }
        }
    }
    if name not in (SERVING, STARTING):
        changes["serving"] = {"enabled": False}
    if name.startswith("retried-"):
        changes["runPolicy"] = {"backoffLimit": 0}
    if HELD.get(name) == "train":
        # Training does not end before its first steps are reported.
        changes |= {"model": {"source": DEMO_MODEL}, "training": {"maxSteps": STEPS}}
    return small(**changes)


def _reached(tunings: Mapping[str, Tuning], names: set[str]) -> tuple[str, Object] | None:
    """Return a job that is in its stage, and its pod; a train pod has made some steps."""
    for name in sorted(names):
        tuning, stage = tunings[name], HELD[name]
        step = tuning.status().get("training", {}).get("globalStep") or 0
        if stage == "train" and step < STEPS_BEFORE:
            continue
        for pod in _running(tuning.cluster, name):
            return name, pod
    return None


def _running(cluster: Cluster, name: str) -> list[Object]:
    return cluster.record.present(
        "Pod",
        NAMESPACE,
        lambda pod: (
            (label(pod, JOB), label(pod, STAGE)) == (name, HELD[name])
            and pod["status"].get("phase") == "Running"
            and all("running" in each["state"] for each in pod["status"]["containerStatuses"])
        ),
    )


def _container(stage: str) -> str:
    return vllm.CONTAINER if stage == "serve" else jobs.CONTAINER


def _trainer(job: Object) -> Any:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container


def _uids(objects: list[Object]) -> list[str]:
    return [each["metadata"]["uid"] for each in objects]


@pytest.mark.parametrize("stage", STAGES)
def test_a_running_stage_continues(upgraded: Upgraded, stage: str) -> None:
    """Its pod completes, and the later stages run the trainer image of the revision."""
    name = f"continued-{stage}"
    tuning, held = upgraded.tuning(name), upgraded.pod(name)
    stage_process.release(held, jobs.CONTAINER)
    tuning.wait_until("Finished", seconds=SECONDS)
    assert (condition(tuning.status(), "Succeeded") or {})["status"] == "True"
    assert _uids(tuning.pods(stage)) == _uids([held])
    for each in STAGES:
        (job,) = tuning.jobs(each)
        assert _trainer(job)["image"] == upgraded.earlier.images.trainer
        assert _trainer(job)["args"][:2] == [each, "--config"]
    for each in STAGES[: STAGES.index(stage) + 1]:
        assert _uids(tuning.jobs(each)) == _uids(upgraded.before[name].jobs[each]), each


def test_a_starting_endpoint_continues(upgraded: Upgraded) -> None:
    tuning, held = upgraded.tuning(STARTING), upgraded.pod(STARTING)
    stage_process.release(held, vllm.CONTAINER)
    tuning.wait_until("Ready", reason="Serving", seconds=SECONDS)
    assert _uids(tuning.pods("serve")) == _uids([held])


@pytest.mark.parametrize("stage", STAGES)
def test_a_retry_starts_with_the_arguments_of_its_image(upgraded: Upgraded, stage: str) -> None:
    """The process is killed; an edit retries the stage in a Job of the new operator."""
    name = f"retried-{stage}"
    tuning = upgraded.tuning(name)
    stage_process.kill(upgraded.pod(name), jobs.CONTAINER)
    stalled = tuning.wait_until("Stalled", seconds=SECONDS)
    assert stalled["reason"] == "RetriesExhausted", tuning.message()
    tuning.change(runPolicy={"backoffLimit": 1})
    tuning.wait(
        "the retry has started",
        lambda _: len(tuning.jobs(stage)) == 2,
        seconds=SECONDS,
        stalls=True,
    )
    tuning.wait(
        "the job no longer stalls",
        lambda status: condition(status, "Stalled") is None,
        seconds=SECONDS,
        stalls=True,
    )
    tuning.wait_until("Finished", seconds=SECONDS)
    assert (condition(tuning.status(), "Succeeded") or {})["status"] == "True"
    first, second = tuning.jobs(stage)
    assert [label(job, ATTEMPT) for job in (first, second)] == ["1", "2"]
    assert _trainer(second)["image"] == upgraded.earlier.images.trainer
    assert _trainer(second)["args"] == _trainer(first)["args"]
    for each in set(STAGES) - {stage}:
        assert len(tuning.jobs(each)) == 1, each
    if stage == "train":
        pod = tuning.pods("train")[-1]["metadata"]["name"]
        log = upgraded.cluster.kubectl.logs(pod, NAMESPACE)
        assert "resuming from the checkpoint of step" in log


def test_another_merge_of_a_serving_job_starts(upgraded: Upgraded) -> None:
    tuning, before = upgraded.tuning(SERVING), upgraded.before[SERVING]
    (pod,) = tuning.pods("serve")
    for key in ("status", "reason", "lastTransitionTime"):
        found = (condition(status, "Ready") for status in (tuning.status(), before.status))
        assert len({each[key] for each in found if each}) == 1, key
    tuning.change(merge={"dtype": "float16", "base": "dequantized"})
    build = tuning.wait(
        "the endpoint has another build",
        lambda status: (
            status["serving"].get("build") != before.status["serving"]["build"]
            and status["serving"].get("build")
        ),
        seconds=SECONDS,
    )
    tuning.wait_until("Ready", reason="Serving", seconds=SECONDS)
    assert tuning.status()["build"] == build
    assert pod["metadata"]["uid"] != _uids(tuning.pods("serve"))[-1]
    first, second = tuning.jobs("merge")
    assert _uids([first]) == _uids(before.jobs["merge"])
    assert _trainer(second)["image"] == upgraded.earlier.images.trainer
    assert _trainer(second)["args"][:2] == ["merge", "--config"]
    assert _uids(tuning.jobs("train")) == _uids(before.jobs["train"])


@pytest.mark.parametrize("name", ALL)
def test_no_revision_changes(upgraded: Upgraded, name: str) -> None:
    """After the stages above: digests and frozen configuration are those of before."""
    now, before = upgraded.tuning(name).status(), upgraded.before[name].status
    assert now["revision"] == before["revision"]
    frozen = [
        {each["revision"]: each["frozen"] for each in status["revisions"]}
        for status in (before, now)
    ]
    assert frozen[0] == frozen[1]


def test_a_new_revision_uses_the_new_image(upgraded: Upgraded) -> None:
    tuning = upgraded.tuning("new").apply(small(serving={"enabled": False}))
    (container,) = tuning.wait_for_pod("prepare", seconds=SECONDS)["spec"]["containers"]
    assert container["image"] == upgraded.cluster.trainer_image()
    assert container["image"] != upgraded.earlier.images.trainer
    assert len(container["args"]) == 1
