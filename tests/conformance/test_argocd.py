"""Argo CD deploys FineTuneJobs from Git, and the operator reconciles them.

Every test has an Application, a repository and a namespace of its own. A fake kubelet ends the pods
of the stages; everything else is real.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conformance.argocd import APPLICATIONS, SECONDS, ArgoCD, Repository
from tests.fakes import kubelet
from tests.support.api_server.controlplane import ControlPlane, has
from tests.support.api_server.manifest_files import EXAMPLES, example_jobs
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.scenarios import ScenarioRunner, all_complete

pytestmark = pytest.mark.usefixtures("operator")


def manifest(**spec: Any) -> str:
    """Return the manifest of the job ``demo``."""
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "demo"},
        "spec": {
            "model": {"source": "hf://acme/base"},
            "dataset": {"source": "hf://acme/data", "format": "alpaca"},
            **spec,
        },
    }
    return yaml.safe_dump(job)


class Deployment:
    """An Application of one job: what the commits contain, what Argo CD reports."""

    def __init__(self, argo: ArgoCD, place: Namespace, folder: Path) -> None:
        self.argo, self.place, self.name = argo, place, place.name
        self.repository = Repository.create(folder / "repository")
        self.runner = ScenarioRunner(plane=place.plane)

    def push(self, **spec: Any) -> str:
        """Commit the job with this spec; return the commit."""
        return self._commit({"demo.yaml": manifest(**spec)})

    def remove(self) -> str:
        """Commit the removal of the job."""
        return self._commit({"demo.yaml": None})

    def _commit(self, files: dict[str, str | None]) -> str:
        commit = self.repository.commit(files)
        if has(self.place.plane, f"{APPLICATIONS}/{self.name}"):
            self.argo.refresh(self.name)
        else:
            self.argo.deploy(self.name, self.repository, self.place.name)
        return commit

    def until(self, what: str, ready: Callable[[], bool]) -> None:
        """Play the kubelet until ``ready``."""
        self.runner.until(what, ready, SECONDS)

    def until_health(self, health: str, reason: str) -> None:
        """Wait until the Application and the job have this health and reason."""
        self.until(
            f"the Application is {health}, and the job {reason}",
            lambda: self.argo.health(self.name) == health and self.place.reason() == reason,
        )

    def is_suspended(self, suspended: bool) -> bool:
        """Report whether the spec of the job and the health of the Application agree with it."""
        health = self.argo.health(self.name)
        spec = self.place.job()["spec"]
        return spec.get("suspend") is suspended and (health == "Suspended") is suspended


@pytest.fixture
def deployment(argo: ArgoCD, place: Namespace, tmp_path: Path) -> Iterator[Deployment]:
    """A repository and a namespace; the Application is deleted at the end, without its objects."""
    made = Deployment(argo, place, tmp_path)
    yield made
    if has(place.plane, f"{APPLICATIONS}/{place.name}"):
        place.plane.delete(f"{APPLICATIONS}/{place.name}")


def only(*stages: str) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """Complete the pods of these stages; the pods of other stages do not start."""
    return lambda pod: all_complete(pod) if kubelet.stage_of(pod) in stages else None


def test_health_follows_the_job(deployment: Deployment) -> None:
    deployment.runner.pod_status = only("prepare")
    commit = deployment.push()
    deployment.until(
        "the job trains",
        lambda: (
            deployment.argo.synced(deployment.name, commit)
            and deployment.place.condition("DataReady").get("status") == "True"
        ),
    )
    assert deployment.argo.health(deployment.name) == "Progressing"
    deployment.runner.pod_status = all_complete
    deployment.until_health("Healthy", "Serving")
    assert deployment.argo.synced(deployment.name, commit)


def test_failed_job_is_degraded(deployment: Deployment) -> None:
    deployment.runner.pod_status = lambda pod: kubelet.failed(
        "prepare", code=65, reason="DatasetInvalid", message="line 3: no field 'output'"
    )
    deployment.push()
    deployment.until_health("Degraded", "DatasetInvalid")
    shown = partial(deployment.argo.message, deployment.name)
    deployment.until("Argo CD shows the message", lambda: "line 3" in shown())


def test_commit_trains_a_revision_while_the_old_one_serves(deployment: Deployment) -> None:
    deployment.push()
    deployment.until_health("Healthy", "Serving")
    first = deployment.place.job()["status"]["serving"]["revision"]
    deployment.runner.pod_status = only("prepare")
    commit = deployment.push(training={"epochs": 2})
    deployment.until(
        "the second revision trains",
        lambda: (
            deployment.argo.synced(deployment.name, commit)
            and deployment.place.job()["status"]["revision"] != first
            and deployment.argo.health(deployment.name) == "Progressing"
        ),
    )
    status = deployment.place.job()["status"]
    assert status["serving"]["revision"] == first
    assert deployment.place.condition("Serving")["status"] == "True"
    deployment.runner.pod_status = all_complete
    deployment.until_health("Healthy", "Serving")
    assert deployment.place.job()["status"]["serving"]["revision"] == status["revision"]


def test_self_heal_reverts_an_edit_in_the_cluster(deployment: Deployment) -> None:
    deployment.runner.pod_status = only()
    commit = deployment.push(training={"epochs": 2})
    synced = partial(deployment.argo.synced, deployment.name, commit)
    deployment.until("the job is synced", synced)
    path = deployment.place.path("finetunejobs", "demo")
    deployment.place.plane.merge(path, {"spec": {"training": {"epochs": 9}}})
    deployment.until(
        "Argo CD reverts the edit",
        lambda: deployment.place.job()["spec"]["training"]["epochs"] == 2 and synced(),
    )


def test_actions_suspend_and_resume(deployment: Deployment) -> None:
    deployment.runner.pod_status = only()
    deployment.push()
    deployment.until("the job exists", lambda: bool(deployment.argo.health(deployment.name)))
    for action, suspended in (("suspend", True), ("resume", False)):
        deployment.argo.act(deployment.name, deployment.place.name, "demo", action)
        deployment.until(
            f"the job follows the action {action}", partial(deployment.is_suspended, suspended)
        )


def test_prune_deletes_job_and_children(deployment: Deployment) -> None:
    deployment.push()
    deployment.until_health("Healthy", "Serving")
    commit = deployment.remove()
    kinds = ("finetunejobs", "jobs", "deployments", "services", "persistentvolumeclaims", "pods")
    deployment.until(
        "the job and its children are deleted",
        lambda: (
            deployment.argo.synced(deployment.name, commit)
            and not any(deployment.place.items(kind) for kind in kinds)
        ),
    )


def test_argo_cd_and_the_operator_write_different_fields(deployment: Deployment) -> None:
    """The spec has one writer, the status another, and Argo CD syncs once for each commit."""
    for spec in ({}, {"training": {"epochs": 2}}):
        commit = deployment.push(**spec)
        deployment.until(
            "the commit is synced", partial(deployment.argo.synced, deployment.name, commit)
        )
        deployment.until_health("Healthy", "Serving")
    job = deployment.place.job()
    writers: dict[str, set[str]] = {}
    for entry in job["metadata"]["managedFields"]:
        for field in entry["fieldsV1"]:
            writers.setdefault(field, set()).add(entry["manager"])
    assert writers["f:spec"] == {"argocd-controller"}
    assert len(writers["f:status"]) == 1
    assert writers["f:spec"].isdisjoint(writers["f:status"])
    # One generation for the creation, and one for the edit.
    assert job["metadata"]["generation"] == 2
    history = deployment.argo.status(deployment.name)["history"]
    assert len(history) == 2, json.dumps(history)


def test_examples_are_synced(
    argo: ArgoCD, control_plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    """All examples in one Application; none of them differs from Git after its creation."""
    repository = Repository.create(tmp_path / "repository")
    commit = repository.commit({f"examples/{each.name}": each.read_text() for each in EXAMPLES})
    argo.deploy(place.name, repository, place.name, "examples")
    runner = ScenarioRunner(plane=control_plane, pod_status=only())

    count = len(example_jobs())

    def reconciled() -> bool:
        jobs = place.items("finetunejobs")
        return len(jobs) == count and all(
            each.get("status", {}).get("observedGeneration") == 1 for each in jobs
        )

    runner.until("the examples are synced", lambda: argo.synced(place.name, commit), SECONDS)
    runner.until("the operator reconciles each", reconciled, SECONDS)
    argo.refresh(place.name)
    runner.until("they are still synced", lambda: argo.synced(place.name, commit), SECONDS)
    assert len(argo.status(place.name)["history"]) == 1
    control_plane.delete(f"{APPLICATIONS}/{place.name}")
