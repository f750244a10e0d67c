"""A job that Argo CD deploys to the local cluster, and what its Application has reported."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import yaml
from tests.conformance.argocd import NAMESPACE, ArgoCD, Repository
from tests.support.local_cluster import pods
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.recorder import Recorder
from tests.support.local_cluster.tuning import STAGE, Tuning, condition, label

from finetune_api import API_VERSION, KIND

CONDITIONS = {"Healthy": "Ready", "Degraded": "Stalled", "Suspended": "Suspended"}
"""Healths of an Application, with the condition of the job that each of them shows."""
TRAINED_SECONDS, SYNC_SECONDS = 900.0, 600.0


@dataclass(frozen=True, kw_only=True)
class Application:
    """All that an Application has reported."""

    record: Recorder
    name: str

    def statuses(self) -> list[Object]:
        """Return all versions of the status."""
        events = self.record.events("Application", NAMESPACE)
        found = (each.object for each in events if each.key[1] == self.name)
        return [each["status"] for each in found if "sync" in each.get("status", {})]

    def reports(self, commit: str, health: str = "") -> bool:
        """Report whether the cluster equals a commit now, and has this health, if given."""
        statuses = self.statuses()
        return (
            bool(statuses)
            and _synced(statuses[-1], commit)
            and health in ("", _health(statuses[-1]))
        )

    def healths(self, commit: str) -> list[str]:
        """Return all healths while the cluster equalled a commit, each change once."""
        synced = (status for status in self.statuses() if _synced(status, commit))
        return [health for health, _ in groupby(map(_health, synced))]


def _synced(status: Object, commit: str) -> bool:
    return (status["sync"]["status"], status["sync"].get("revision")) == ("Synced", commit)


def _health(status: Object) -> str:
    return str(status.get("health", {}).get("status", ""))


@dataclass(frozen=True, kw_only=True)
class DeployedJob:
    """One job in a repository of its own."""

    argo: ArgoCD
    repository: Repository
    application: Application
    tuning: Tuning
    caller: str
    """A pod from which requests are sent."""
    specs: list[Object] = field(default_factory=list)
    """The specs that commits, actions and edits have caused, in this order."""
    commits: list[str] = field(default_factory=list)

    def push(self, spec: Object) -> None:
        """Commit the job with this spec."""
        # Argo CD ignores the field that its actions write.
        ignored = {"suspend"} & (self.specs or [{}])[-1].keys()
        self.specs.append({**spec, **{key: self.specs[-1][key] for key in ignored}})
        job = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": self.tuning.name}}
        self.commit(yaml.safe_dump({**job, "spec": spec}))

    def commit(self, text: str | None) -> None:
        """Commit the file of the job, or its removal, and notify Argo CD."""
        self.commits.append(self.repository.commit({"job.yaml": text}))
        if len(self.commits) == 1:
            self.argo.deploy(self.application.name, self.repository, self.tuning.namespace)
        else:
            self.argo.refresh(self.application.name)

    def act(self, action: str, *, suspend: bool) -> None:
        """Run an action in Argo CD that writes ``spec.suspend``."""
        self.specs.append({**self.specs[-1], "suspend": suspend})
        self.argo.act(self.application.name, self.tuning.namespace, self.tuning.name, action)

    def edit(self, **training: Any) -> None:
        """Change fields in the cluster that Git also contains; self-heal must revert that."""
        committed = self.specs[-1]
        edited = {**committed, "training": {**committed["training"], **training}}
        self.specs.extend([edited, committed])
        self.tuning.change(training=training)

    def message(self) -> str:
        """Return the health message that Argo CD shows."""
        return self.argo.message(self.application.name)

    def revision(self) -> str:
        """Return the revision that answers requests."""
        return str(self.tuning.status()["serving"]["revision"])

    def answers(self) -> bool:
        """Send a question to the endpoint; report whether it is answered."""
        status, tuning = self.tuning.status(), self.tuning
        message = {"role": "user", "content": "What is the Debian package tmux?"}
        body = {"model": status["serving"]["model"], "messages": [message], "max_tokens": 2}
        asked = json.dumps([{"url": f"{status['endpoint']}/chat/completions", "body": body}])
        (answer,) = pods.inside(tuning.cluster, tuning.namespace, self.caller, "call.py", asked)
        return bool(answer["status"] == 200)

    def trains(self) -> bool:
        """Report whether a train pod runs."""
        return any(
            label(pod, STAGE) == "train" and pod["status"].get("phase") == "Running"
            for pod in self.tuning.cluster.record.present("Pod", self.tuning.namespace)
        )

    def until(self, what: str, check: Callable[[], bool], *, seconds: float = SYNC_SECONDS) -> None:
        """Wait until the record fulfills ``check``."""
        self.tuning.cluster.record.wait(what, check, seconds=seconds)

    def until_health(self, health: str) -> None:
        """Wait until the last commit is synced, and Application and job agree on this health."""

        def reached() -> bool:
            job = self.tuning.current()
            if job is None or job["spec"] != self.specs[-1]:
                return False
            status = job.get("status", {})
            shown = condition(status, CONDITIONS[health]) or {}
            return (
                status.get("observedGeneration") == job["metadata"]["generation"]
                and shown.get("status") == "True"
                and self.application.reports(self.commits[-1], health)
            )

        self.until(f"the Application is {health}", reached, seconds=TRAINED_SECONDS)

    def versions(self) -> dict[tuple[str, str], list[Object]]:
        """Return all versions of all jobs until their deletion, by namespace and name."""
        found: dict[tuple[str, str], list[Object]] = {}
        for event in self.application.record.events("FineTuneJob"):
            if event.change != "DELETED" and "deletionTimestamp" not in event.object["metadata"]:
                found.setdefault(event.key, []).append(event.object)
        return found
