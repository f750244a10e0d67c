"""``ftj pause``: suspends a job; training resumes later from its last checkpoint."""

from finetune_cli.cluster.job import Job
from finetune_cli.jobs.changing import change
from finetune_cli.jobs.changing.change import Change


def _decide(job: Job) -> tuple[Change, str]:
    if job.spec.get("suspend"):
        return {}, f"already paused; to continue it, run: ftj resume {job.name}"
    return {"spec": {"suspend": True}}, (
        "paused. A running stage stops, and training saves a checkpoint; a model that is served "
        f"continues to be served. To continue, run: ftj resume {job.name}"
    )


run = change.verb(_decide)
