"""``ftj watch``: follows jobs until they are finished, with a bar per stage on a terminal."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finetune_api import KIND
from finetune_cli import terminal
from finetune_cli.cluster.api import Cluster, Unreachable
from finetune_cli.cluster.job import STAGES, Job
from finetune_cli.errors import CommandFailed
from finetune_cli.jobs import selection
from finetune_cli.options import Context, Format, JobNames, Kubeconfig, Namespace, Output

POLL_SECONDS = 2.0
SHOWN_STAGES = STAGES[:4]
BAR_WIDTH = 8
NARROW = 80
"""Columns below which there are no bars, so that names are whole."""
NOT_READY = 1


def run(
    names: JobNames = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> int:
    """Follow the jobs; return 1 if one of them has failed. Raises CommandFailed."""
    cluster = Cluster.of(kubeconfig, context, namespace)
    first = jobs = _first(cluster, names)
    if output is Format.TEXT and sys.stdout.isatty():
        console = terminal.console()
        with Live(console=console, auto_refresh=False) as live:
            for jobs in _states(cluster, first):
                live.update(_table(jobs, console.width), refresh=True)
    else:
        shown: dict[str, tuple[object, ...]] = {}
        for jobs in _states(cluster, first):
            _print_changes(jobs, shown, output)
    for job in jobs:
        if not job.ready.true and output is Format.TEXT:
            terminal.line(f"{job.name}:", job.ready.message, f"(ftj why {job.name})")
    return 0 if all(job.ready.true for job in jobs) else NOT_READY


def _first(cluster: Cluster, names: list[str] | None) -> list[Job]:
    """Return the named jobs, or those of the namespace that are not finished, if there are any."""
    jobs = selection.jobs(cluster, names)
    if not jobs:
        raise CommandFailed(f"namespace {cluster.namespace} has no {KIND}: name one, or set -n")
    return jobs if names else [job for job in jobs if not job.finished] or jobs


def _states(cluster: Cluster, jobs: list[Job]) -> Iterator[list[Job]]:
    """Yield the jobs, and again every few seconds until all are finished."""
    while True:
        yield jobs
        if all(job.finished for job in jobs):
            return
        time.sleep(POLL_SECONDS)
        # An API server that restarts ends no watch.
        jobs = [_again(cluster, job) for job in jobs]


def _again(cluster: Cluster, job: Job) -> Job:
    try:
        return Job(object=cluster.job(job.name))
    except Unreachable:
        return job


def _print_changes(
    jobs: Sequence[Job], shown: dict[str, tuple[object, ...]], output: Format
) -> None:
    for job in jobs:
        state = _line(job)
        if shown.get(job.name) == state:
            continue
        shown[job.name] = state
        if output is Format.JSON:
            facts = {"name": job.name, "finished": job.finished, "ready": job.ready.status}
            progress = {"progress": state[2], "eta": state[3], "loss": state[4]}
            terminal.compact({**facts, "reason": job.ready.reason, **progress})
        else:
            terminal.line(*(part for part in state if part))
    sys.stdout.flush()


def _line(job: Job) -> tuple[object, ...]:
    status = job.status
    loss = (status.get("training") or {}).get("loss")
    eta = status.get("eta")
    return (
        job.name,
        job.ready.reason,
        status.get("progress") or "",
        f"{eta} left" if eta else "",
        f"loss {loss}" if loss and status.get("progress") else "",
    )


def _table(jobs: Sequence[Job], width: int) -> Table:
    """Return a line per job, with bars if the terminal is wide enough."""
    if width >= NARROW:
        return _bars(jobs)
    rows = []
    for job in jobs:
        name, reason, progress, eta, _ = _line(job)
        stage = str(progress) or str(reason)
        rows.append((name, terminal.text(stage, _style(job)), str(eta).removesuffix(" left")))
    return terminal.columns(("NAME", "STATE", "LEFT"), rows)


def _bars(jobs: Sequence[Job]) -> Table:
    """Return a line per job, with a bar per stage."""
    table = terminal.columns(("NAME", *SHOWN_STAGES, "STATE", "PROGRESS", "", ""), ())
    for job in jobs:
        name, reason, *rest = _line(job)
        outcomes = {attempt["stage"]: attempt for attempt in job.attempts}
        bars = (_bar(job, outcomes.get(stage)) for stage in SHOWN_STAGES)
        shown = terminal.text(reason, _style(job))
        table.add_row(terminal.text(name), *bars, shown, *map(terminal.text, rest))
    return table


def _style(job: Job) -> str:
    if job.ready.true:
        return terminal.GOOD
    return terminal.BAD if job.condition("Stalled").true else terminal.WAITING


def _bar(job: Job, attempt: Any) -> ProgressBar | Text:
    """Return the bar of a stage: empty, in part, full, or crossed out after a failure."""
    if attempt is None:
        return ProgressBar(width=BAR_WIDTH, total=1, completed=0)
    outcome = attempt.get("outcome")
    if outcome == "Failed":
        return terminal.text("failed", terminal.BAD)
    serves = attempt["stage"] == "serve" and job.condition("Serving").true
    if outcome == "Completed" or serves:
        return ProgressBar(width=BAR_WIDTH, total=1, completed=1)
    return ProgressBar(width=BAR_WIDTH, total=100, completed=_percent(job, str(attempt["stage"])))


def _percent(job: Job, stage: str) -> int:
    part = {"prepare": "preparation", "train": "training"}.get(stage, "")
    return int((job.status.get(part) or {}).get("progressPercent") or 0)
