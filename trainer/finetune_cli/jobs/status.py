"""``ftj status``: the state of a job, or of several jobs in a table."""

from typing import Any

from finetune_api import KIND
from finetune_api.contracts import labels
from finetune_api.durations import duration
from finetune_api.v1alpha1.reasons import Reason
from finetune_cli import terminal
from finetune_cli.cluster import api, gpus, stages
from finetune_cli.cluster.api import Cluster, Forbidden
from finetune_cli.cluster.gpus import Seen
from finetune_cli.cluster.job import Job, seconds_since
from finetune_cli.cluster.stages import StageLine
from finetune_cli.jobs import selection
from finetune_cli.options import Context, Format, JobNames, Kubeconfig, Namespace, Output

WAITS_FOR_A_GPU = (Reason.UNSCHEDULABLE, Reason.QUEUED, Reason.PREEMPTED)


def run(
    names: JobNames = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print the state. Raises CommandFailed."""
    cluster = Cluster.of(kubeconfig, context, namespace)
    jobs = selection.jobs(cluster, names)
    if not names or len(jobs) > 1:
        if output is Format.JSON:
            terminal.document([_facts(job) for job in jobs])
        elif jobs:
            head = ("NAME", "READY", "STATE", "SERVING", "PROGRESS", "ETA")
            terminal.table(head, map(_row, jobs), indent=0)
        else:
            terminal.line(f"Namespace {cluster.namespace} has no {KIND}.")
        return
    (job,) = jobs
    selector = f"{labels.JOB}={job.name}"
    lines = stages.stages(
        job, cluster.visible(api.path("jobs", job.namespace, api="/apis/batch/v1"), selector)
    )
    seen = _seen(cluster) if job.ready.reason in WAITS_FOR_A_GPU else None
    if output is Format.JSON:
        terminal.document(_facts(job) | _more(job, lines, seen))
    else:
        _print(job, lines, seen)


def _seen(cluster: Cluster) -> Seen | None:
    try:
        return gpus.seen(cluster)
    except Forbidden:
        return None


def _row(job: Job) -> tuple[object, ...]:
    ready, status = job.ready, job.status
    return (
        job.name,
        terminal.state(ready.status),
        ready.reason,
        (status.get("serving") or {}).get("summary", "-"),
        status.get("progress", ""),
        status.get("eta", ""),
    )


def _facts(job: Job) -> dict[str, Any]:
    ready = job.ready
    return {
        "name": job.name,
        "namespace": job.namespace,
        "ready": ready.status,
        "reason": ready.reason,
        "message": ready.message,
        "finished": job.finished,
        "revision": job.status.get("revision"),
        "progress": job.status.get("progress"),
        "eta": job.status.get("eta"),
        "endpoint": job.status.get("endpoint"),
        "model": (job.status.get("serving") or {}).get("model"),
        "warnings": list(job.status.get("warnings") or ()),
    }


def _more(job: Job, lines: list[StageLine], seen: Seen | None) -> dict[str, Any]:
    conditions = list(job.status.get("conditions") or ())
    holders = None if seen is None else [holder.document() for holder in seen.holders]
    place = None if seen is None else seen.place(job.namespace, job.name)
    return {
        "stages": [vars(line) for line in lines],
        "conditions": conditions,
        "gpus": holders,
        "queuePosition": job.status.get("queuePosition"),
        "podPosition": None if place is None else place[0],
    }


def _print(job: Job, lines: list[StageLine], seen: Seen | None) -> None:
    ready, status = job.ready, job.status
    serving = status.get("serving") or {}
    terminal.line(terminal.text(f"{KIND} {job.name}", terminal.TITLE), f"in {job.namespace}")
    if not job.current:
        terminal.paragraph(
            "The operator has not reconciled the present spec yet; the state below is older.",
            terminal.WAITING,
        )
    since = seconds_since(ready.since)
    style = terminal.GOOD if ready.true else _style(job)
    age = "" if since is None else f" for {duration(since)}"
    terminal.pairs(
        (
            ("State", terminal.text(f"{ready.reason}{age}", style)),
            ("Message", ready.message),
            ("Queue", _queue(job)),
            ("Progress", _progress(status)),
            ("Revision", status.get("revision")),
            ("Serving", serving.get("summary")),
            ("Endpoint", status.get("endpoint")),
            ("Model", serving.get("model")),
        )
    )
    if lines:
        _print_stages(lines)
    if warnings := status.get("warnings"):
        terminal.title("Warnings")
        for warning in warnings:
            terminal.paragraph(f"* {warning}", terminal.WAITING)
    if seen is not None and seen.holders:
        terminal.title("GPUs" if seen.whole else f"GPUs of namespace {job.namespace}")
        terminal.table(
            ("NODE", "POD OF", "FOR"),
            (
                (holder.node or "waits", holder.owner, duration(holder.seconds))
                for holder in seen.holders
            ),
        )
        if (place := seen.place(job.namespace, job.name)) is not None:
            terminal.paragraph(f"Number {place[0]} of {place[1]} that wait, the longest first.")
    if not ready.true and job.finished:
        print()
        terminal.paragraph(f"To read cause and remedy, run: ftj why {job.name}", indent=0)


def _print_stages(lines: list[StageLine]) -> None:
    """Print a table, and details below it where the terminal has no room for their column."""
    terminal.title("Stages")
    head = ("STAGE", "STATE", "ATTEMPT", "TIME")
    rows = [(line.stage, terminal.state(line.outcome), line.attempt, line.time) for line in lines]
    detailed = [line for line in lines if line.detail]
    if detailed and terminal.console().width >= terminal.NARROW:
        details = (line.detail for line in lines)
        rows_with_details = ((*row, detail) for row, detail in zip(rows, details, strict=True))
        terminal.table((*head, "DETAIL"), rows_with_details)
        return
    terminal.table(head, rows)
    for line in detailed:
        terminal.paragraph(f"{line.stage}: {line.detail}")


def _queue(job: Job) -> str | None:
    """Return the place in a queue of Kueue, None if the job waits in none that is known."""
    place, name = job.status.get("queuePosition"), job.spec.get("queueName")
    if place is None:
        return None
    return f"number {place}" + (f" in LocalQueue {name}" if name else "")


def _style(job: Job) -> str:
    return terminal.BAD if job.condition("Stalled").true else terminal.WAITING


def _progress(status: Any) -> str:
    training = status.get("training") or {}
    parts = (
        status.get("progress"),
        f"{status['eta']} left" if status.get("eta") else None,
        f"loss {training['loss']}" if status.get("progress") and training.get("loss") else None,
    )
    return ", ".join(filter(None, parts))
