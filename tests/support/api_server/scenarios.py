"""Run many scenarios of jobs at the same time, with one fake kubelet for all of them.

A scenario is a generator. It acts as a user and yields the condition that it waits for. One loop
acts as the kubelet and checks the condition of every scenario. Each round of the loop sends two
requests, regardless of the number of scenarios.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes import kubelet
from tests.support.api_server.controlplane import PATIENCE_SECONDS, ControlPlane
from tests.support.api_server.namespace import Namespace

ROUND_SECONDS = 0.5
"""Seconds between two rounds, each of which reads all jobs."""
METADATA = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}

Wait = tuple[str, Callable[[], bool]]
Scenario = Iterator[Wait]
PodStatus = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Takes the metadata of a pod, returns the new status of the pod, or None to leave it unchanged."""


def all_complete(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a completed stage, or of a ready serving pod."""
    stage = kubelet.stage_of(pod)
    return kubelet.serving() if stage == "serve" else kubelet.completed(stage)


@dataclass(kw_only=True)
class ScenarioRunner:
    """Runs scenarios. ``pod_status`` returns the status to report for each new pod."""

    plane: ControlPlane
    pod_status: PodStatus = all_complete
    jobs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """The FineTuneJobs that the last round read, by namespace and name."""
    pods: list[dict[str, Any]] = field(default_factory=list)
    """The metadata of the pods of all jobs that the last round read."""
    _known: set[str] = field(default_factory=set)
    _waiting: dict[str, tuple[Scenario, Wait]] = field(default_factory=dict)

    def begin(self, name: str, scenario: Scenario) -> None:
        """Start a scenario."""
        wait = next(scenario, None)
        if wait is not None:
            self._waiting[name] = scenario, wait

    @property
    def unfinished(self) -> set[str]:
        """The names of the scenarios that have not ended."""
        return set(self._waiting)

    def reason(self, namespace: str, name: str = "demo") -> str:
        """Return the reason of a job's Ready condition, as read by the last round."""
        job = self.jobs.get((namespace, name), {})
        conditions = job.get("status", {}).get("conditions", ())
        return next((str(c["reason"]) for c in conditions if c["type"] == "Ready"), "")

    def round(self) -> None:
        """Read all objects, report on new pods, and resume scenarios whose condition is met."""
        found = self.plane.get("/apis/finetune.dev/v1alpha1/finetunejobs")["items"]
        self.jobs = {
            (each["metadata"]["namespace"], each["metadata"]["name"]): each for each in found
        }
        listed = self.plane.request(
            "GET",
            "/api/v1/pods?labelSelector=finetune.dev/job,finetune.dev/stage",
            headers=METADATA,
        )
        self.pods = listed["items"] or []
        for pod in self.pods:
            uid = pod["metadata"]["uid"]
            if uid not in self._known and (status := self.pod_status(pod)) is not None:
                self._known.add(uid)
                kubelet.report(Namespace(self.plane, pod["metadata"]["namespace"]), pod, status)
        for name, (scenario, (_, ready)) in list(self._waiting.items()):
            if not ready():
                continue
            wait = next(scenario, None)
            if wait is None:
                del self._waiting[name]
            else:
                self._waiting[name] = scenario, wait

    def until(
        self, what: str, ready: Callable[[], bool], seconds: float = 3 * PATIENCE_SECONDS
    ) -> None:
        """Run rounds until ``ready``. Raise TimeoutError with the condition of every scenario."""
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                waits = {name: what for name, (_, (what, _)) in self._waiting.items()}
                raise TimeoutError(f"{what}: not within {seconds:.0f} s; waiting: {waits}")
            began = time.monotonic()
            self.round()
            spent = time.monotonic() - began
            # On a busy machine, rounds without a pause would take the cores of what they wait for.
            time.sleep(max(spent, ROUND_SECONDS - spent))
