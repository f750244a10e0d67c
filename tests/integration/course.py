"""The whole life of a job, and the objects it leaves, for comparing two runs."""

from collections.abc import Mapping
from typing import Any

from tests.fakes import kubelet
from tests.integration.fleet import Fleet, Life
from tests.integration.namespace import Namespace

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


class Course:
    """One life, from its submission to its deletion, and what it left at its height."""

    def __init__(self, fleet: Fleet, place: Namespace) -> None:
        self.fleet, self.place = fleet, place
        self.revision = ""
        self.objects: dict[str, Any] = {}

    def life(self) -> Life:
        """Train, merge, serve; edit, so that it trains again; pause that, resume; delete."""
        place, fleet = self.place, self.fleet
        path = place.path("finetunejobs", "demo")
        place.submit()
        yield "the first model is served", lambda: fleet.reason(place.name) == "Serving"
        self.revision = self.status()["revision"]
        place.plane.merge(path, {"spec": {"training": {"epochs": 2}}})
        yield "the next one is trained", lambda: bool(self.training())
        place.plane.merge(path, {"spec": {"suspend": True}})
        yield (
            "training is paused",
            lambda: not self.training() and fleet.reason(place.name) == "SuspendedByUser",
        )
        place.plane.merge(path, {"spec": {"suspend": False}})
        yield "the second model is served", self.serves_the_second
        self.objects = snapshot(place)
        place.plane.delete(path)
        yield "nothing is left", lambda: not snapshot(place)

    def status(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.fleet.jobs[self.place.name, "demo"].get("status", {})
        return found

    def training(self) -> list[dict[str, Any]]:
        """Return the train pods of the second revision's first attempt, which never ends."""
        return [
            pod
            for pod in self.fleet.pods
            if pod["metadata"]["namespace"] == self.place.name and endless(pod, self.revision)
        ]

    def serves_the_second(self) -> bool:
        status = self.status()
        return (
            self.fleet.reason(self.place.name) == "Serving"
            and status["revision"] != self.revision
            and status["serving"]["revision"] == status["revision"]
            and len(self.place.items("deployments")) == 1
        )


def endless(pod: Mapping[str, Any], first: str) -> bool:
    labels = pod["metadata"]["labels"]
    return (
        labels["finetune.dev/stage"] == "train"
        and labels["finetune.dev/attempt"] == "1"
        and bool(first)
        and labels["finetune.dev/revision"] != first
    )


def snapshot(place: Namespace) -> dict[str, Any]:
    """Return everything that the operator made, without what differs from life to life."""
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
    """Return a value with ``names`` in place of the texts that differ from life to life."""
    if isinstance(value, dict):
        return {k: plain(v, names) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [plain(each, names) for each in value]
    if isinstance(value, str):
        for text, name in names.items():
            value = value.replace(text, name)
        lines = value.splitlines()
        return "\n".join(line for line in lines if not line.strip().startswith('"uid"'))
    return value


def fate_in(courses: Mapping[str, Course], pod: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the kubelet says of a pod: every stage completes but the one to be paused."""
    course = courses.get(pod["metadata"]["namespace"])
    if course is None:
        return None
    stage = kubelet.stage_of(pod)
    if stage == "serve" or endless(pod, course.revision):
        return kubelet.serving()
    return kubelet.completed(stage)
