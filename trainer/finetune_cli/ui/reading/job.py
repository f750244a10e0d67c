"""All that the page of one job shows, as far as the user may read it."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_api import PLURAL
from finetune_api.contracts import labels
from finetune_cli.cluster import api, history, pods, stages
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.history import History
from finetune_cli.cluster.job import Job
from finetune_cli.cluster.stages import StageLine
from finetune_cli.ui.reading import rights
from finetune_cli.ui.reading.rights import Part

LOG_LINES = 200
LOG_CHARACTERS = 32 * 1024
"""The end of these lines, which a page shows."""
EVENTS = 20
UNDER_WAY = ("Starting", "Running")
"""Outcomes of an attempt that has not ended."""
Object = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event about the job or about its pod."""

    time: str
    type: str
    reason: str
    about: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Log:
    """The last lines of the container that matters."""

    pod: str
    container: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Details:
    """A job, and the parts of its page."""

    job: Job
    stages: tuple[StageLine, ...]
    pod: Part[Object]
    """The newest pod of the stage that matters; empty if there is none."""
    events: Part[Sequence[Event]]
    log: Part[Log | None]
    history: Part[History]


def find(cluster: Cluster, namespace: str, name: str) -> Job:
    """Return a job. Raises CommandFailed, and Denied without the right."""
    with rights.needs("get", rights.own(PLURAL), namespace):
        return Job(object=replace(cluster, namespace=namespace).job(name))


def details(cluster: Cluster, namespace: str, name: str) -> Details:
    """Return a job with the parts of its page. Raises CommandFailed."""
    job = find(cluster, namespace, name)
    pod, jobs, losses = rights.at_once(
        lambda: rights.part(lambda: _pod(cluster, job)),
        lambda: rights.part(lambda: _jobs(cluster, job)),
        lambda: loss_history(cluster, job),
    )
    events, log = rights.at_once(
        lambda: rights.part(lambda: _events(cluster, job, pod.value or {})),
        lambda: rights.part(lambda: _log(cluster, job, pod.value or {})),
    )
    return Details(
        job=job,
        stages=tuple(_stages(job, jobs.value or (), pod.value or {})),
        pod=pod,
        events=events,
        log=Part(problem=pod.problem) if pod.problem else log,
        history=losses,
    )


def loss_history(cluster: Cluster, job: Job) -> Part[History]:
    """Return the losses of the present revision."""
    return rights.part(lambda: history.of(cluster, job, job.revision))


def _pod(cluster: Cluster, job: Job) -> Object:
    with rights.needs("list", "pods", job.namespace):
        job_pods = cluster.items(
            api.path("pods", job.namespace), labelSelector=f"{labels.JOB}={job.name}"
        )
    return pods.newest(job_pods, job.stage) or {}


def _jobs(cluster: Cluster, job: Job) -> list[dict[str, Any]]:
    where = api.path("jobs", job.namespace, api="/apis/batch/v1")
    with rights.needs("list", "jobs.batch", job.namespace):
        return cluster.items(where, labelSelector=f"{labels.JOB}={job.name}")


def _stages(job: Job, jobs: Sequence[Object], pod: Object) -> Iterator[StageLine]:
    """Yield the stages. The attempt of the pod waits as long as the pod has no node."""
    waits = pods.waits_for_node(pod)
    for line in stages.stages(job, jobs):
        if waits and line.stage == pods.label(pod, pods.STAGE) and line.outcome in UNDER_WAY:
            yield replace(line, outcome=stages.WAITING_FOR_NODE)
        else:
            yield line


def _events(cluster: Cluster, job: Job, pod: Object) -> list[Event]:
    """Return the newest events, the newest first."""
    objects: list[Object] = []
    for object_ in filter(None, (job.object, pod)):
        selector = f"involvedObject.uid={object_['metadata']['uid']}"
        with rights.needs("list", "events", job.namespace):
            objects += cluster.items(api.path("events", job.namespace), fieldSelector=selector)
    events = sorted(map(_event, objects), key=lambda event: event.time, reverse=True)
    return events[:EVENTS]


def _event(event: Object) -> Event:
    about = event.get("involvedObject") or {}
    times = (
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )
    return Event(
        time=max((str(stamp) for stamp in times if stamp), default=""),
        type=str(event.get("type", "")),
        reason=str(event.get("reason", "")),
        about=" ".join(str(about[field]) for field in ("kind", "name") if about.get(field)),
        message=str(event.get("message", "")),
    )


def _log(cluster: Cluster, job: Job, pod: Object) -> Log | None:
    if not pod:
        return None
    states = pods.containers(pod)
    failed = next((state for state in states if not state.healthy), None)
    container = failed.name if failed else str(pod["spec"]["containers"][0]["name"])
    name = pod["metadata"]["name"]
    with rights.needs("get", "pods/log", job.namespace):
        text = cluster.lines(
            api.path("pods", job.namespace, name) + "/log",
            container=container,
            tailLines=LOG_LINES,
            previous="true" if failed and failed.state == "waiting" and failed.restarts else None,
        )
        # The server has no option to limit the bytes from the end.
        last = deque((line[-LOG_CHARACTERS:] for line in text), maxlen=LOG_LINES)
        shown = "\n".join(last)[-LOG_CHARACTERS:]
    return Log(pod=str(name), container=container, text=shown)
