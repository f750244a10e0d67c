"""One FineTuneJob of a test: what is applied, what is seen of it, what is waited for."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.e2e.kubectl import Object
from tests.e2e.recorder import NotInTime
from tests.e2e.target import Cluster

MODEL = "hf://demo/smollm2-135m-instruct"
DATASET = "hf://demo/debian-packages"
JOB = "finetune.dev/job"
STAGE = "finetune.dev/stage"
ATTEMPT = "finetune.dev/attempt"
CHILDREN = (
    "Job", "Pod", "PersistentVolumeClaim", "ConfigMap", "Deployment", "ReplicaSet", "Service",
    "NetworkPolicy",
)  # fmt: skip

SMALL: dict[str, Any] = {
    "model": {"source": MODEL},
    "dataset": {"source": DATASET, "format": "alpaca", "maxSamples": 16},
    "training": {
        "maxSteps": 6,
        "learningRate": 1e-3,
        "effectiveBatchSize": 2,
        "sequenceLength": 256,
        "packing": "never",
        "advanced": {"saveSteps": 1, "gradientCheckpointing": False},
    },
    "storage": {"size": "2Gi"},
}
"""A job that goes through every stage in the shortest time; it teaches nothing."""


def small(**changes: Any) -> dict[str, Any]:
    """Return ``SMALL`` with groups of the spec replaced or, where both are maps, merged."""
    return _merged(SMALL, changes)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A FineTuneJob."""

    cluster: Cluster
    namespace: str
    name: str

    def apply(self, spec: Object) -> "Tuning":
        """Apply the job with this spec."""
        self.cluster.kubectl.apply(
            {
                "apiVersion": "finetune.dev/v1alpha1",
                "kind": "FineTuneJob",
                "metadata": {"name": self.name, "namespace": self.namespace},
                "spec": spec,
            }
        )
        return self

    def change(self, **spec: Any) -> None:
        """Merge-patch the spec."""
        self.cluster.kubectl.patch("ftj", self.name, self.namespace, {"spec": spec})

    def seen(self) -> Object | None:
        """Return the job as it is now."""
        return self.cluster.record.find("FineTuneJob", self.namespace, self.name)

    def status(self) -> Object:
        """Return the job's status as it is now, empty where there is none."""
        status: Object = (self.seen() or {}).get("status", {})
        return status

    def condition(self, type_: str) -> Object | None:
        """Return a condition as it is now."""
        return condition(self.status(), type_)

    def pods(self, stage: str) -> list[Object]:
        """Return the pods of a stage that ever were, each as it was last seen, oldest first."""
        last: dict[str, Object] = {}
        for event in self.cluster.record.events("Pod", self.namespace, self._is(stage)):
            last[event.object["metadata"]["uid"]] = event.object
        return list(last.values())

    def jobs(self, stage: str) -> list[Object]:
        """Return the Jobs of a stage that ever were, each as it was last seen, oldest first."""
        last: dict[str, Object] = {}
        for event in self.cluster.record.events("Job", self.namespace, self._is(stage)):
            last[event.object["metadata"]["uid"]] = event.object
        return list(last.values())

    def wait(
        self, what: str, look: Callable[[Object], Any], *, seconds: float, stalls: bool = False
    ) -> Any:
        """Wait until ``look`` finds something in the status; fail at once if the job stalls.

        stalls: whether a stalled job is what is waited for. Raises NotInTime.
        """

        def stalled() -> str | None:
            found = None if stalls else self.condition("Stalled")
            return f"{found['reason']}: {found['message']}" if found else None

        try:
            return self.cluster.record.wait(
                f"{self.namespace}/{self.name}: {what}",
                lambda: look(self.status()),
                seconds=seconds,
                unless=stalled,
            )
        except NotInTime as error:
            ready = self.condition("Ready") or {}
            now = f"{ready.get('reason', 'no status')}: {ready.get('message', '')}"
            raise NotInTime(f"{error}; the job is at {now}") from None

    def wait_until(
        self, type_: str, *, reason: str = "", status: str = "True", seconds: float
    ) -> Object:
        """Wait for a condition of this status, and of this reason if one is given."""

        def look(now: Object) -> Object | None:
            found = condition(now, type_)
            fits = found and found["status"] == status and reason in ("", found["reason"])
            return found if fits else None

        what = f"{type_} is {status}{f' ({reason})' if reason else ''}"
        found: Object = self.wait(what, look, seconds=seconds, stalls=type_ == "Stalled")
        return found

    def wait_for_pod(self, stage: str, *, seconds: float, but: str = "") -> Object:
        """Wait until a pod of a stage runs; ``but`` is the uid of one that does not count."""

        def look(_: Object) -> Object | None:
            for pod in self.cluster.record.present("Pod", self.namespace, self._is(stage)):
                if pod["status"].get("phase") == "Running" and pod["metadata"]["uid"] != but:
                    return pod
            return None

        found: Object = self.wait(f"a {stage} pod runs", look, seconds=seconds)
        return found

    def children(self) -> list[str]:
        """Return what there is now of the job's children, its volume included."""
        record = self.cluster.record
        found = [
            f"{kind}/{child['metadata']['name']}"
            for kind in CHILDREN
            for child in record.present(kind, self.namespace)
            if label(child, JOB) == self.name
        ]
        volumes = record.present(
            "PersistentVolume",
            where=lambda each: self._claims(each["spec"].get("claimRef", {})),
        )
        return found + [f"PersistentVolume/{each['metadata']['name']}" for each in volumes]

    def delete(self, *, seconds: float) -> None:
        """Delete the job and wait until neither it nor any child of it is there."""
        self.cluster.kubectl.delete("ftj", self.name, self.namespace)
        try:
            self.cluster.record.wait(
                f"{self.namespace}/{self.name} and its children are gone",
                lambda: self.seen() is None and not self.children(),
                seconds=seconds,
            )
        except NotInTime as error:
            raise NotInTime(f"{error}; still there: {', '.join(self.children())}") from None

    def _is(self, stage: str) -> Callable[[Object], bool]:
        return lambda item: label(item, JOB) == self.name and label(item, STAGE) == stage

    def _claims(self, claim: Object) -> bool:
        return claim.get("namespace") == self.namespace and str(claim.get("name", "")).startswith(
            f"{self.name}-"
        )


def label(item: Object, key: str) -> str | None:
    """Return an object's label, or None."""
    value: str | None = item["metadata"].get("labels", {}).get(key)
    return value


def condition(status: Object, type_: str) -> Object | None:
    """Return a condition out of a status, or None."""
    found: list[Object] = [each for each in status.get("conditions", ()) if each["type"] == type_]
    return found[0] if found else None
