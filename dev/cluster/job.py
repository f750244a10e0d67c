"""A FineTuneJob as the demo sees it: applying it, and watching it until it is ready.

On a terminal one line is rewritten; elsewhere a line is printed when something changed.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

from cluster.errors import NotReady
from cluster.kubectl import Client
from cluster.phases import finished, say

BAR = 24
POLL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition of the job's status."""

    true: bool
    reason: str
    message: str


def condition(job: dict[str, Any], name: str) -> Condition:
    """The condition of that type; a false one if there is none for the present spec."""
    status = job.get("status", {})
    for item in status.get("conditions", []):
        current = item.get("observedGeneration") == job["metadata"]["generation"]
        if item["type"] == name and current:
            return Condition(
                true=item["status"] == "True", reason=item["reason"], message=item["message"]
            )
    return Condition(true=False, reason="Pending", message="the operator has not looked yet")


def describe(job: dict[str, Any]) -> str:
    """One line: what is going on, with a bar, loss and time left while it trains."""
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
    """Show progress until the job is Ready; raises NotReady when it is stalled or too slow."""
    begin = stage_begin = time.monotonic()
    live = sys.stdout.isatty()
    shown = ""
    stage = ""
    while True:
        job: dict[str, Any] | None = client.get("finetunejob", name, "-n", namespace)
        if job is None:
            raise NotReady(f"the job {namespace}/{name} was deleted while it was watched")
        now = time.monotonic()
        ready, stalled = condition(job, "Ready"), condition(job, "Stalled")
        if ready.reason != stage:
            if stage:
                _clear(live)
                seconds = now - stage_begin
                say(f"    {stage}: {seconds:.1f} s")
                finished.append((f"  job: {stage}", seconds))
            stage, stage_begin = ready.reason, now
        if ready.true:
            return job
        if stalled.true:
            _clear(live)
            raise NotReady(
                f"the job stalled: {stalled.reason}: {stalled.message}",
                hint=f"kubectl -n {namespace} describe ftj {name}; logs of its pods with "
                f"kubectl -n {namespace} logs -l finetune.dev/job={name} --tail=50",
            )
        if now - begin > timeout:
            raise NotReady(
                f"the job is not ready after {timeout:g} s: {ready.reason}: {ready.message}",
                hint=f"kubectl -n {namespace} get ftj {name} -w goes on watching",
            )
        line = describe(job)
        if live:
            print(f"\r\033[K    {now - begin:5.0f} s  {line}"[:160], end="", flush=True)
        elif line != shown:
            say(f"    {now - begin:5.0f} s  {line}")
        shown = line
        time.sleep(POLL_SECONDS)


def _clear(live: bool) -> None:
    if live:
        print("\r\033[K", end="", flush=True)
