"""The progress of a FineTuneJob, until it is Ready.

On a terminal, one line is updated in place; otherwise, each change is printed as a line.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

from cluster.errors import NotReady
from cluster.kubectl import Client
from cluster.phases import record, say

BAR = 24
POLL_SECONDS = 1.0
UNSUPPORTED = "UnsupportedVersion"
"""Reason of a job that an earlier version wrote, and that the operator cannot read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition of a job."""

    true: bool
    reason: str
    message: str


def condition(job: dict[str, Any], name: str) -> Condition:
    """Return the condition of this type; a false one if none is current for the spec."""
    status = job.get("status", {})
    for entry in status.get("conditions", []):
        current = entry.get("observedGeneration") == job["metadata"]["generation"]
        if entry["type"] == name and current:
            return Condition(
                true=entry["status"] == "True", reason=entry["reason"], message=entry["message"]
            )
    return Condition(true=False, reason="Pending", message="waiting for the operator")


def unsupported(client: Client) -> list[tuple[str, str]]:
    """Return namespace and name of every job in the cluster that an earlier version wrote."""
    jobs = client.get("finetunejobs", "--all-namespaces")["items"]
    return [
        (job["metadata"]["namespace"], job["metadata"]["name"])
        for job in jobs
        if (stalled := condition(job, "Stalled")).true and stalled.reason == UNSUPPORTED
    ]


def describe(job: dict[str, Any]) -> str:
    """Return the state in one line, with progress bar, loss and remaining time during training."""
    ready = condition(job, "Ready")
    training = job.get("status", {}).get("training", {})
    text = f"{ready.reason:10} {ready.message}"
    step, steps = training.get("globalStep"), training.get("maxSteps")
    if ready.reason == "Training" and step is not None and steps:
        filled = round(BAR * step / steps)
        text = f"{ready.reason:10} [{'#' * filled}{'.' * (BAR - filled)}] {step}/{steps} steps"
        if training.get("loss") is not None:
            text += f"  loss {float(training['loss']):.3f}"
        if training.get("etaSeconds") is not None:
            text += f"  about {int(training['etaSeconds'])} s left"
    return text


def watch(client: Client, name: str, namespace: str, *, timeout: float) -> dict[str, Any]:
    """Print the progress; return the job when it is Ready.

    timeout: seconds without a new stage or a new step. Raises NotReady if the job stalls.
    """
    begin = stage_begin = progressed = time.monotonic()
    reached: set[tuple[str, int | None]] = set()
    live = sys.stdout.isatty()
    shown = ""
    stage = ""
    while True:
        job: dict[str, Any] | None = client.get("finetunejob", name, "-n", namespace)
        if job is None:
            raise NotReady(f"FineTuneJob {namespace}/{name} was deleted")
        now = time.monotonic()
        ready, stalled = condition(job, "Ready"), condition(job, "Stalled")
        if ready.reason != stage:
            if stage:
                _clear(live)
                seconds = now - stage_begin
                say(f"    {stage}: {seconds:.1f} s")
                record(f"job: {stage}", seconds)
            stage, stage_begin = ready.reason, now
        step = job.get("status", {}).get("training", {}).get("globalStep")
        if (ready.reason, step) not in reached:
            reached.add((ready.reason, step))
            progressed = now
        if ready.true:
            return job
        if stalled.true:
            _clear(live)
            raise NotReady(
                f"FineTuneJob {namespace}/{name} is stalled: {ready.reason}: {ready.message}",
                hint=_fix(name, namespace, ready.reason),
            )
        if now - progressed > timeout:
            raise NotReady(
                f"FineTuneJob {namespace}/{name} has made no progress for {timeout:g} s: "
                f"{ready.reason}: {ready.message}",
                hint=f"continue watching with `kubectl -n {namespace} get ftj {name} -w`",
            )
        line = describe(job)
        if live:
            print(f"\r\033[K    {now - begin:5.0f} s  {line}"[:160], end="", flush=True)
        elif line != shown:
            say(f"    {now - begin:5.0f} s  {line}")
        shown = line
        time.sleep(POLL_SECONDS)


def _fix(name: str, namespace: str, reason: str) -> str:
    """Return the commands that fix a stalled job, or find the cause."""
    if reason == UNSUPPORTED:
        return (
            f"an earlier version created this job; delete it with `kubectl -n {namespace} "
            f"delete ftj {name}`, which deletes its volumes, then run the same command again"
        )
    return (
        f"find the cause with `kubectl -n {namespace} describe ftj {name}` and "
        f"`kubectl -n {namespace} logs -l finetune.dev/job={name} --tail=50`"
    )


def _clear(live: bool) -> None:
    if live:
        print("\r\033[K", end="", flush=True)
