"""Objects that must exist according to the ledger. Pure.

If one of them is missing in the cache, it is read by its name before anything is concluded: the
watch may be late, and an object that has lost its label looks deleted to a watch with a selector.
"""

from collections.abc import Iterator

from finetune_operator.objects import naming, status_view
from finetune_operator.types import Object


def expected(job: Object) -> Iterator[tuple[str, str]]:
    """Yield kind and name of the running Jobs, and of the volumes that contain artifacts.

    A volume with unknown content must not be mistaken for a new one.
    """
    name = job["metadata"]["name"]
    for revision in status_view.of_job(job).revisions():
        attempts = [attempt for attempt in revision.attempts if attempt.runs_as_job]
        if revision.untrusted_volume or any(
            attempt.outcome in ("Running", "Completed") for attempt in attempts
        ):
            yield naming.VOLUME, naming.revision_name(name, revision.name)
        for attempt in attempts:
            if attempt.outcome == "Running":
                yield "Job", naming.job_name(name, revision.name, attempt.stage, attempt.number)
