"""One FineTuneJob of a test: apply it, read it, and wait for its status."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.recorder import WaitTimeout
from tests.support.local_cluster.target import Cluster

MODEL = "hf://demo/two-layers"
"""Two of the thirty layers of the demo model, for jobs that learn nothing."""
DEMO_MODEL = "hf://demo/smollm2-135m-instruct"
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
"""The spec of a job that completes all stages in the shortest time and learns nothing."""


def small(**changes: Any) -> dict[str, Any]:
    """Return ``SMALL`` with replaced fields; mappings are merged."""
    return _merged(SMALL, changes)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """One FineTuneJob in the cluster."""

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

    def current(self) -> Object | None:
        """Return the current job."""
        return self.cluster.record.find("FineTuneJob", self.namespace, self.name)

    def status(self) -> Object:
        """Return the current status, or an empty dict."""
        status: Object = (self.current() or {}).get("status", {})
        return status

    def condition(self, type_: str) -> Object | None:
        """Return a current condition."""
        return condition(self.status(), type_)

    def message(self) -> str:
        """Return the message of the condition Ready, or an empty text."""
        return str((self.condition("Ready") or {}).get("message", ""))

    def pods(self, stage: str) -> list[Object]:
        """Return all pods of a stage since the start, each in its last state, oldest first."""
        last: dict[str, Object] = {}
        for event in self.cluster.record.events("Pod", self.namespace, self._is(stage)):
            last[event.object["metadata"]["uid"]] = event.object
        return list(last.values())

    def jobs(self, stage: str) -> list[Object]:
        """Return all Jobs of a stage since the start, each in its last state, oldest first."""
        last: dict[str, Object] = {}
        for event in self.cluster.record.events("Job", self.namespace, self._is(stage)):
            last[event.object["metadata"]["uid"]] = event.object
        return list(last.values())

    def wait(
        self, what: str, check: Callable[[Object], Any], *, seconds: float, stalls: bool = False
    ) -> Any:
        """Wait until ``check`` returns a value for the status; fail immediately if the job stalls.

        seconds: time without a new state or a new step. stalls: the test expects a stalled job.
        Raises WaitTimeout.
        """

        def reached() -> tuple[str | None, int | None]:
            ready = self.condition("Ready") or {}
            return ready.get("reason"), self.status().get("training", {}).get("globalStep")

        def stalled() -> str | None:
            found = None if stalls else self.condition("Stalled")
            return f"{found['reason']}: {self.message()}" if found else None

        try:
            return self.cluster.record.wait(
                f"{self.namespace}/{self.name}: {what}",
                lambda: check(self.status()),
                seconds=seconds,
                unless=stalled,
                progress=reached,
            )
        except WaitTimeout as error:
            ready = self.condition("Ready") or {}
            now = f"{ready.get('reason', 'no status')}: {ready.get('message', '')}"
            raise WaitTimeout(f"{error}; the job is at {now}") from None

    def wait_until(
        self, type_: str, *, reason: str = "", status: str = "True", seconds: float
    ) -> Object:
        """Wait for a condition with this status, and with this reason if it is given."""

        def check(now: Object) -> Object | None:
            found = condition(now, type_)
            fits = found and found["status"] == status and reason in ("", found["reason"])
            return found if fits else None

        what = f"{type_} is {status}{f' ({reason})' if reason else ''}"
        found: Object = self.wait(what, check, seconds=seconds, stalls=type_ == "Stalled")
        return found

    def wait_for_pod(self, stage: str, *, seconds: float, but: str = "") -> Object:
        """Wait until a pod of a stage runs; ``but``: uid of a pod that is ignored."""

        def check(_: Object) -> Object | None:
            for pod in self.cluster.record.present("Pod", self.namespace, self._is(stage)):
                if pod["status"].get("phase") == "Running" and pod["metadata"]["uid"] != but:
                    return pod
            return None

        found: Object = self.wait(f"a {stage} pod runs", check, seconds=seconds)
        return found

    def children(self) -> list[str]:
        """Return the existing children of the job, including its volume."""
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
        """Delete the job and wait until the job and all its children are deleted."""
        self.cluster.kubectl.delete("ftj", self.name, self.namespace)
        try:
            self.cluster.record.wait(
                f"{self.namespace}/{self.name} and its children are deleted",
                lambda: self.current() is None and not self.children(),
                seconds=seconds,
            )
        except WaitTimeout as error:
            raise WaitTimeout(f"{error}; still present: {', '.join(self.children())}") from None

    def copy(self, into: Path, *options: str) -> str:
        """Copy the model to a local folder with ``ftj copy``; return what the command printed."""
        kubectl = self.cluster.kubectl
        place = (f"--namespace={self.namespace}", f"--kubeconfig={kubectl.kubeconfig}")
        path = os.pathsep.join((str(kubectl.program.parent), os.environ["PATH"]))
        done = subprocess.run(
            [sys.executable, "-m", "finetune_cli", "copy", self.name, str(into), *options, *place],
            env=os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def _is(self, stage: str) -> Callable[[Object], bool]:
        return lambda item: label(item, JOB) == self.name and label(item, STAGE) == stage

    def _claims(self, claim: Object) -> bool:
        return claim.get("namespace") == self.namespace and str(claim.get("name", "")).startswith(
            f"{self.name}-"
        )


def label(item: Object, key: str) -> str | None:
    """Return a label of an object, or None."""
    value: str | None = item["metadata"].get("labels", {}).get(key)
    return value


def condition(status: Object, type_: str) -> Object | None:
    """Return a condition of a status, or None."""
    found: list[Object] = [each for each in status.get("conditions", ()) if each["type"] == type_]
    return found[0] if found else None
