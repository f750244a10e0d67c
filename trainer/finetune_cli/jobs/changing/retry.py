"""``ftj retry``: starts another attempt of the stage that has failed.

A failed stage is retried after a change of a field of the edit class *retry*. The verb changes one
that nothing else depends on: it raises the number of allowed restarts by one, or above the number
of those that the stage has had.
"""

import json
from collections.abc import Mapping
from typing import Any

from finetune_api import KIND
from finetune_api.v1alpha1.reasons import Reason
from finetune_cli.cluster.job import Job
from finetune_cli.errors import CommandFailed
from finetune_cli.jobs.changing import change
from finetune_cli.jobs.changing.change import Change

FIELD, MAXIMUM = "maxRestarts", 1000
BUILT_IN = 20


def decide(job: Job) -> tuple[Change, str]:
    """Return the change that retries the failed stage, and its effect. Raises CommandFailed."""
    failed = next((attempt for attempt in job.attempts if attempt.get("outcome") == "Failed"), None)
    failed = failed or _unverified(job)
    if failed is None:
        raise CommandFailed(
            f"no stage of {KIND} {job.name} has failed: to train the same recipe again, run ftj "
            f"rerun {job.name}"
        )
    restarts = (failed.get("failures") or 0) + (failed.get("disruptions") or 0)
    after = max(_allowed_restarts(job), restarts) + 1
    if after > MAXIMUM:
        raise CommandFailed(
            f"spec.runPolicy.{FIELD} of {KIND} {job.name} would be {after}, above its maximum of "
            f"{MAXIMUM}: change another field of runPolicy, which retries the stage as well"
        )
    start, step = "retries the stage", f"To follow it, run: ftj watch {job.name}"
    if job.spec.get("suspend"):
        start = "is paused, and after it is resumed, it retries the stage"
        step = f"To resume it, run: ftj resume {job.name}"
    return {"spec": {"runPolicy": {FIELD: after}}}, (
        f"{start} {failed['stage']}, with the files that are on the volume "
        f"(spec.runPolicy.{FIELD} is now {after}). {step}"
    )


def _unverified(job: Job) -> Mapping[str, Any] | None:
    """Return the attempt at serving whose adapter failed at a FineTuneEndpoint, or None.

    The attempt continues, because the endpoint verifies the first adapter of a job again when it
    restarts.
    """
    if not job.status.get("sharedModel") or job.ready.reason != Reason.VERIFICATION_FAILED:
        return None
    return next((attempt for attempt in job.attempts if attempt["stage"] == "serve"), None)


def _allowed_restarts(job: Job) -> int:
    """Return the value of the spec, or the default at the start of the revision."""
    frozen = (job.revision.get("frozen") or {}).get("operator") or "{}"
    defaults = json.loads(frozen).get("defaults") or {}
    for layer in (job.spec, defaults):
        value = (layer.get("runPolicy") or {}).get(FIELD)
        if value is not None:
            return int(value)
    return BUILT_IN


run = change.verb(decide)
