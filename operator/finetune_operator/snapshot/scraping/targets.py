"""Which pods of a job are scraped. Pure.

A pod is scraped only if the job controls it through a Job or a Deployment of the snapshot. Anybody
who may create pods can label one like a pod of a job.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from finetune_operator.objects import conditions, deployments, naming, status_view
from finetune_operator.objects.stages import PIPELINE
from finetune_operator.snapshot.scraping import trainer_metrics, verifier_metrics
from finetune_operator.types import Object, Snapshot

Kind = Literal["progress", "verification", "loaded", "requests"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A pod whose metrics are read, their address, and what they contain."""

    kind: Kind
    pod: str
    uid: str
    build: str
    address: str
    port: int
    idle_after: int | None = None
    """Seconds without a request after which the job may stop its serving pods."""

    @property
    def slot(self) -> str:
        """The place of the target among those of the job: only requests have several."""
        return f"{self.kind}/{self.uid}" if self.kind == "requests" else self.kind


def targets(snapshot: Snapshot) -> tuple[Target, ...]:
    """Return the pods to scrape, at most one of each kind but the last.

    progress: the running stage pod; verification: a serving pod of an unreported build; loaded: a
    serving pod of the target build that starts; requests: every ready pod of the serving build, if
    the job stops them without requests.
    """
    serving = tuple(_serving(snapshot))
    idle_after = status_view.of_job(snapshot.job).idle_after_seconds
    answering = () if idle_after is None else _answering_pods(snapshot.job, serving)
    candidates = (
        _target("progress", _stage_pod(snapshot)),
        _target("verification", _unreported_pod(snapshot.job, serving)),
        _target("loaded", _starting_pod(snapshot.job, serving)),
        *(_target("requests", pod, idle_after) for pod in answering),
    )
    return tuple(target for target in candidates if target is not None)


def _target(kind: Kind, pod: Object | None, idle_after: int | None = None) -> Target | None:
    if pod is None:
        return None
    return Target(
        kind=kind,
        pod=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        build=naming.label(pod, naming.BUILD) or "",
        address=str(pod["status"]["podIP"]),
        port=trainer_metrics.PORT if kind == "progress" else verifier_metrics.PORT,
        idle_after=idle_after,
    )


def _stage_pod(snapshot: Snapshot) -> Object | None:
    """Return the running pod of a stage, one with a GPU first."""
    stages = {
        job["metadata"]["uid"]: naming.label(job, naming.STAGE)
        for job in snapshot.jobs
        if naming.owned_by(snapshot.job, job)
    }
    running = {
        stages[controller["uid"]]: pod
        for pod in _reachable(snapshot.pods)
        if (controller := naming.controller_of(pod)) is not None
        and controller["uid"] in stages
        and pod["status"].get("phase") == "Running"
    }
    stages_of_pods = sorted(PIPELINE, key=lambda stage: not stage.gpu)
    return next((running[stage.name] for stage in stages_of_pods if stage.name in running), None)


def _unreported_pod(job: Object, serving: Iterable[Object]) -> Object | None:
    """Return the newest ready serving pod whose build has no verification in the status, or None.

    The status may report any ready pod of a build: all are compared with the same reference, once
    at each start. A restart of vLLM in a pod is compared with the same files again.
    """
    reported = status_view.of_job(job).verification
    build = reported.get("build")
    ready = [pod for pod in serving if conditions.is_true(pod, "Ready")]
    names = {pod["metadata"]["name"] for pod in ready if naming.label(pod, naming.BUILD) == build}
    if reported.get("pod") in names:
        ready = [pod for pod in ready if naming.label(pod, naming.BUILD) != build]
    return _newest(ready)


def _starting_pod(job: Object, serving: Iterable[Object]) -> Object | None:
    """Return the newest running serving pod of the target build that is not ready, or None."""
    build = status_view.of_job(job).build
    return _newest(
        pod
        for pod in serving
        if build is not None
        and naming.label(pod, naming.BUILD) == build
        and pod["status"].get("phase") == "Running"
        and not conditions.is_true(pod, "Ready")
    )


def _answering_pods(job: Object, serving: Iterable[Object]) -> Iterable[Object]:
    """Yield the ready pods of the serving build."""
    build = status_view.of_job(job).serving_build
    return (
        pod
        for pod in serving
        if naming.label(pod, naming.BUILD) == build and conditions.is_true(pod, "Ready")
    )


def _newest(pods: Iterable[Object]) -> Object | None:
    return max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)


def _serving(snapshot: Snapshot) -> Iterable[Object]:
    """Yield the pods of the job's own Deployments."""
    own = [
        deployment
        for deployment in snapshot.deployments
        if naming.owned_by(snapshot.job, deployment)
    ]
    for pod in _reachable(snapshot.pods):
        if any(deployments.controls(deployment, pod) for deployment in own):
            yield pod


def _reachable(pods: Iterable[Object]) -> Iterable[Object]:
    return (
        pod
        for pod in pods
        if (pod.get("status") or {}).get("podIP") and "deletionTimestamp" not in pod["metadata"]
    )
