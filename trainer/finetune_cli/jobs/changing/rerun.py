"""``ftj rerun``: trains the same recipe again, as a new revision."""

from finetune_cli.cluster.job import Job, timestamp
from finetune_cli.jobs.changing import change
from finetune_cli.jobs.changing.change import Change


def _decide(job: Job) -> tuple[Change, str]:
    now = timestamp()
    return {"spec": {"rerun": now}}, (
        f"trains a new revision with the same recipe (spec.rerun is now {now}). To follow it, run: "
        f"ftj watch {job.name}"
    )


run = change.verb(_decide)
