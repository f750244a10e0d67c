"""``ftj resume``: continues a job that is suspended."""

from finetune_cli.cluster.job import Job
from finetune_cli.jobs.changing import change
from finetune_cli.jobs.changing.change import Change


def _decide(job: Job) -> tuple[Change, str]:
    if not job.spec.get("suspend"):
        return {}, "not paused"
    return {"spec": {"suspend": False}}, (
        f"resumed. Training continues from its last checkpoint; to follow it, run: ftj watch "
        f"{job.name}"
    )


run = change.verb(_decide)
