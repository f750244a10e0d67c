"""What the cluster shows about a job's pods: states, the newest events, the last lines of a log."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.contracts import labels
from finetune_cli.cluster import api, pods
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.job import Job
from finetune_cli.cluster.pods import Container
from finetune_cli.errors import CommandFailed

LOG_LINES = 5
EVENTS = 3


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The pod that matters, with its containers, and what was reported about it and the job."""

    pod: str | None
    phase: str | None
    node: str | None
    not_scheduled: str | None
    containers: tuple[Container, ...]
    events: tuple[str, ...]
    log: tuple[str, ...]


def pods_of(cluster: Cluster, job: Job) -> list[dict[str, Any]]:
    """Return the pods of a job that the user may list. Raises CommandFailed."""
    return cluster.visible(api.path("pods", job.namespace), f"{labels.JOB}={job.name}")


def gather(cluster: Cluster, job: Job) -> Evidence:
    """Return the evidence that the user may see. Raises CommandFailed."""
    job_pods = pods_of(cluster, job)
    pod = pods.newest(job_pods, job.stage) or {}
    states = tuple(pods.containers(pod))
    status = pod.get("status", {})
    return Evidence(
        pod=pod["metadata"]["name"] if pod else None,
        phase=status.get("phase"),
        node=(pod.get("spec") or {}).get("nodeName"),
        not_scheduled=pods.not_scheduled(pod),
        containers=states,
        events=tuple(_events(cluster, job, [job.object, pod])),
        log=tuple(_log(cluster, job, pod, states)),
    )


def _events(cluster: Cluster, job: Job, about: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the newest warnings about objects, the newest last."""
    warnings = []
    for object_ in filter(None, about):
        selector = f"type=Warning,involvedObject.uid={object_['metadata']['uid']}"
        try:
            warnings += cluster.items(api.path("events", job.namespace), fieldSelector=selector)
        except CommandFailed:
            continue
    warnings.sort(key=_time)
    return [f"{event.get('reason')}: {event.get('message')}" for event in warnings[-EVENTS:]]


def _time(event: Mapping[str, Any]) -> str:
    times = (
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )
    return max(str(stamp) for stamp in times if stamp)


def _log(
    cluster: Cluster, job: Job, pod: Mapping[str, Any], states: Sequence[Container]
) -> list[str]:
    """Return the last lines of the container that failed; empty if there is none."""
    failed = next((container for container in states if container.exit_code), None)
    if failed is None:
        return []
    path = log_path(job, pod)
    previous = "true" if failed.state == "waiting" else None
    try:
        lines = cluster.lines(path, container=failed.name, tailLines=LOG_LINES, previous=previous)
        # A progress bar is one line for the kubelet.
        return list(deque((line for line in lines if line.strip()), maxlen=LOG_LINES))
    except CommandFailed:
        return []


def log_path(job: Job, pod: Mapping[str, Any]) -> str:
    """Return the path of the log of a pod."""
    return api.path("pods", job.namespace, pod["metadata"]["name"]) + "/log"
