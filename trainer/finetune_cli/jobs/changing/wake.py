"""``ftj wake``: starts an endpoint that sleeps because it was idle."""

from finetune_api import GROUP
from finetune_cli.cluster.job import Job, timestamp
from finetune_cli.jobs.changing import change
from finetune_cli.jobs.changing.change import Change

ANNOTATION = f"{GROUP}/wake"


def _decide(job: Job) -> tuple[Change, str]:
    now = timestamp()
    return {"metadata": {"annotations": {ANNOTATION: now}}}, (
        f"asked to start its endpoint. To follow it, run: ftj watch {job.name}"
    )


run = change.verb(_decide)
