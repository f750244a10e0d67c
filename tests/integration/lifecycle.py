"""The complete lifecycle of a job, and a snapshot of its objects to compare two runs."""

from collections.abc import Mapping
from typing import Any

from tests.fakes import kubelet
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.scenarios import Scenario, ScenarioRunner

from finetune_api.revision_hash import text_digest
from finetune_operator.objects import naming

KINDS = (
    "jobs",
    "deployments",
    "services",
    "networkpolicies",
    "configmaps",
    "persistentvolumeclaims",
)
VOLATILE = {
    naming.JOB_UID,
    "uid",
    "clusterIP",
    "clusterIPs",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "volumeName",
}


class Lifecycle:
    """One job from submission to deletion; ``objects`` are those of the second serving model."""

    def __init__(self, runner: ScenarioRunner, place: Namespace) -> None:
        self.runner, self.place = runner, place
        self.revision = ""
        self.objects: dict[str, Any] = {}

    def scenario(self) -> Scenario:
        """Train, serve, edit, train again, pause, resume, serve, and delete a job."""
        place, runner = self.place, self.runner
        path = place.path("finetunejobs", "demo")
        place.submit()
        yield "the first model is served", lambda: runner.reason(place.name) == "Serving"
        self.revision = self.status()["revision"]
        place.plane.merge(path, {"spec": {"training": {"epochs": 2}}})
        yield "the second model is trained", lambda: bool(self.training())
        place.plane.merge(path, {"spec": {"suspend": True}})
        yield (
            "training is paused",
            lambda: not self.training() and runner.reason(place.name) == "SuspendedByUser",
        )
        place.plane.merge(path, {"spec": {"suspend": False}})
        yield "the second model is served", self.serves_the_second
        self.objects = snapshot(place)
        place.plane.delete(path)
        yield "all objects are deleted", lambda: not snapshot(place)

    def status(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.runner.jobs[self.place.name, "demo"].get("status", {})
        return found

    def training(self) -> list[dict[str, Any]]:
        """Return the train pods of the second revision's first attempt, which do not end."""
        return [
            pod
            for pod in self.runner.pods
            if pod["metadata"]["namespace"] == self.place.name and endless(pod, self.revision)
        ]

    def serves_the_second(self) -> bool:
        status = self.status()
        return (
            self.runner.reason(self.place.name) == "Serving"
            and status["revision"] != self.revision
            and status["serving"]["revision"] == status["revision"]
            and len(self.place.items("deployments")) == 1
        )


def endless(pod: Mapping[str, Any], first: str) -> bool:
    """Report whether a pod is the first attempt to train another revision than the first one."""
    labels = pod["metadata"]["labels"]
    return (
        labels["finetune.dev/stage"] == "train"
        and labels["finetune.dev/attempt"] == "1"
        and bool(first)
        and labels["finetune.dev/revision"] != first
    )


def snapshot(place: Namespace) -> dict[str, Any]:
    """Return all objects that the operator created, without the values that differ between runs."""
    # job.json names the job and its namespace; its digest is an argument of the Jobs.
    names = {
        text_digest(each["data"]["job.json"]): f"digest of {each['metadata']['name']}"
        for each in place.items("configmaps")
        if "job.json" in each.get("data", {})
    }
    names[place.name] = "NAMESPACE"
    return {
        f"{kind}/{each['metadata']['name']}": plain(
            {key: each.get(key) for key in ("spec", "data")}
            | {"labels": each["metadata"]["labels"]},
            names,
        )
        for kind in KINDS
        for each in place.items(kind)
        if "finetune.dev/job" in each["metadata"].get("labels", {})
    }


def plain(value: Any, names: Mapping[str, str]) -> Any:
    """Return a value in which ``names`` replaces the texts that differ between runs."""
    if isinstance(value, dict):
        return {k: plain(v, names) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [plain(each, names) for each in value]
    if isinstance(value, str):
        for text, name in names.items():
            value = value.replace(text, name)
    return value


def pod_status(lifecycles: Mapping[str, Lifecycle], pod: dict[str, Any]) -> dict[str, Any] | None:
    """Return the status of a pod: every stage completes, except the training that is paused."""
    lifecycle = lifecycles.get(pod["metadata"]["namespace"])
    if lifecycle is None:
        return None
    stage = kubelet.stage_of(pod)
    if stage == "serve" or endless(pod, lifecycle.revision):
        return kubelet.serving()
    return kubelet.completed(stage)
