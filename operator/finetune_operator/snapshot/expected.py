"""Objects that must exist according to the ledger. Pure.

If one of them is missing in the cache, it is read by its name before anything is concluded: the
watch may be late, and an object that has lost its label looks deleted to a watch with a selector.
"""

from collections.abc import Iterator

from finetune_operator.objects import naming
from finetune_operator.objects.stages import is_job_stage
from finetune_operator.types import Object


def expected(job: Object) -> Iterator[tuple[str, str]]:
    """Yield kind and name of the running Jobs, and of the volumes that contain artifacts.

    A volume with unknown content must not be mistaken for a new one.
    """
    name = job["metadata"]["name"]
    for revision in (job.get("status") or {}).get("revisions") or ():
        stages = [each for each in revision.get("stages") or () if is_job_stage(each.get("stage"))]
        if revision.get("untrustedVolume") or any(
            each.get("outcome") in ("Running", "Completed") for each in stages
        ):
            yield naming.VOLUME, naming.revision_name(name, revision["revision"])
        for each in stages:
            if each.get("outcome") == "Running":
                yield (
                    "Job",
                    naming.job_name(name, revision["revision"], each["stage"], each["attempt"]),
                )
