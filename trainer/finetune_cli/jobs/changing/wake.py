"""``ftj wake``: starts an endpoint that sleeps because it was idle."""

from finetune_api import GROUP
from finetune_api.v1alpha1.reasons import Reason
from finetune_cli.cluster.job import Job, timestamp
from finetune_cli.jobs.changing import change
from finetune_cli.jobs.changing.change import Change

ANNOTATION = f"{GROUP}/wake"


def _decide(job: Job) -> tuple[Change, str]:
    effect = f"asked to start its endpoint. To follow it, run: ftj watch {job.name}"
    if job.condition("Serving").reason != Reason.IDLE:
        effect = f"its endpoint does not sleep ({job.ready.reason}); its idle time starts again"
    return {"metadata": {"annotations": {ANNOTATION: timestamp()}}}, effect


run = change.verb(_decide)
