"""A namespace with the requests that the integration tests send."""

from collections.abc import Mapping
from typing import Any

from tests.support.api_server.controlplane import ApiError, ControlPlane, wait_until


class Namespace:
    """A namespace, and helpers to read and write its objects."""

    def __init__(self, plane: ControlPlane, name: str) -> None:
        self.plane, self.name = plane, name

    def path(self, kind: str, name: str = "") -> str:
        group = {
            "finetunejobs": "/apis/finetune.dev/v1alpha1",
            "finetuneendpoints": "/apis/finetune.dev/v1alpha1",
            "jobs": "/apis/batch/v1",
            "deployments": "/apis/apps/v1",
            "networkpolicies": "/apis/networking.k8s.io/v1",
            "poddisruptionbudgets": "/apis/policy/v1",
            "events": "/apis/events.k8s.io/v1",
        }.get(kind, "/api/v1")
        return f"{group}/namespaces/{self.name}/{kind}" + (f"/{name}" if name else "")

    def submit(
        self,
        name: str = "demo",
        *,
        suspend: bool = False,
        spec: Mapping[str, Any] | None = None,
        **metadata: Any,
    ) -> dict[str, Any]:
        return self.plane.post(
            self.path("finetunejobs"),
            {
                "apiVersion": "finetune.dev/v1alpha1",
                "kind": "FineTuneJob",
                "metadata": {"name": name, **metadata},
                "spec": {
                    "model": {"source": "hf://acme/base"},
                    "dataset": {"source": "hf://acme/data", "format": "alpaca"},
                    **({"suspend": True} if suspend else {}),
                    **(spec or {}),
                },
            },
        )

    def job(self, name: str = "demo") -> dict[str, Any]:
        return self.plane.get(self.path("finetunejobs", name))

    def items(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.plane.get(self.path(kind))["items"]
        return found

    def condition(self, type_: str, name: str = "demo") -> dict[str, Any]:
        """Return a condition of a job, or an empty dict if the job has no condition of the type."""
        return condition_of(self.job(name), type_)

    def reason(self, name: str = "demo") -> str:
        return str(self.condition("Ready", name).get("reason", ""))

    def wait_until_preparing(self, name: str = "demo") -> None:
        """Wait until a FineTuneJob has a Job and its status has the reason Preparing."""
        wait_until(
            f"{name} has a stage Job",
            lambda: any(
                job["metadata"]["labels"]["finetune.dev/job"] == name for job in self.items("jobs")
            ),
        )
        wait_until(
            f"Ready of {name} has reason Preparing", lambda: self.reason(name) == "Preparing"
        )

    def wait_until_running(self) -> None:
        """Wait until the status of demo records that its stage is running.

        The first event about the Job has that effect, at the latest after the poll interval.
        Without a Job controller there is no event, so this changes a label.
        """
        (job,) = self.items("jobs")
        label = {"metadata": {"labels": {"finetune.dev/seen": "1"}}}
        self.plane.merge(self.path("jobs", job["metadata"]["name"]), label)
        wait_until(
            "the stage of demo is running",
            lambda: self.job()["status"]["revisions"][0]["stages"][0]["outcome"] == "Running",
        )

    def wait_until_rejected(self, kind: str, body: Mapping[str, Any], message: str) -> None:
        """Wait until the API server rejects the creation of an object with a message.

        Admission watches policies and quotas, so a new one has no effect on the next request yet.
        """

        def is_rejected() -> bool:
            try:
                self.plane.post(f"{self.path(kind)}?dryRun=All", body)
            except ApiError as error:
                return message in str(error)
            return False

        wait_until(f"{kind} are rejected: {message}", is_rejected)

    def versions(self) -> dict[str, str]:
        """Return the resourceVersion of everything in the namespace."""
        return {
            f"{kind}/{each['metadata']['name']}": each["metadata"]["resourceVersion"]
            for kind in (
                "finetunejobs",
                "jobs",
                "networkpolicies",
                "configmaps",
                "persistentvolumeclaims",
                "services",
                "events",
            )
            for each in self.items(kind)
        }


POD: Mapping[str, Any] = {
    "metadata": {"name": "probe"},
    "spec": {"containers": [{"name": "probe", "image": "probe"}]},
}
CLAIM: Mapping[str, Any] = {
    "metadata": {"name": "probe"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
"""Objects for ``Namespace.wait_until_rejected``."""


def condition_of(job: Mapping[str, Any], type_: str) -> dict[str, Any]:
    """Return a condition of a job, or an empty dict if the job has no condition of the type."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((dict(found) for found in conditions if found["type"] == type_), {})


def train_has_run(job: Mapping[str, Any]) -> bool:
    """Report whether the status of a job records that a pod of its train Job has run."""
    (record,) = job["status"]["revisions"]
    return ("train", True) in ((each["stage"], each.get("hasRun")) for each in record["stages"])
