"""The images that the pods of attempts run, as the container runtime resolved them.

A tag can move while a revision is prepared, trained, merged and served. The ledger has the resolved
image of each attempt, and a warning reports pods that ran different images under the same tag.
"""

from collections.abc import Iterable

from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.manifests import vllm
from finetune_operator.objects import deployments, pods
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.jobs import created
from finetune_operator.objects.stages import is_job_stage
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def recorded(attempt: Attempt, of: Iterable[Object], container: str) -> Attempt:
    """Return the attempt with the image of the newest pod whose container has started.

    of: the attempt's own pods. Without such a pod, the attempt keeps the image that it has.
    """
    for pod in sorted(of, key=created, reverse=True):
        if (image_id := pods.image_id(pod, container)) is not None:
            return attempt.model_copy(update={"image_id": image_id})
    return attempt


def with_serving(snapshot: IndexedSnapshot, ledger: Ledger) -> Ledger:
    """Return the ledger with the images of the serving pods.

    They are recorded when an attempt ends and whenever they change later; while vLLM loads, they
    would only cause one more write of the status.
    """
    for build, deployment in snapshot.builds.items():
        revision, attempt = ledger.revision_of(build), ledger.serving(build)
        if revision is None or attempt is None or attempt.outcome == "Starting":
            continue
        own = [
            pod.object
            for pod in snapshot.pods
            if not pod.terminating and deployments.controls(deployment.object, pod.object)
        ]
        ledger = ledger.with_attempt(revision, recorded(attempt, own, vllm.CONTAINER))
    return ledger


def warnings(before: Ledger, after: Ledger, target: TargetRevision) -> tuple[str, ...]:
    """Return a warning for each stage of the target that began to run another image.

    It is compared with the image that the stage ran before, and with those of the other stages of
    the trainer. The configuration of a revision is frozen, so all of them have the same name.
    """
    stages = after.revision(target.revision).stages
    moved_tags = []
    for attempt in stages:
        previous = before.attempt(target.revision, attempt.stage, attempt.build)
        earlier = previous.image_id if previous is not None else None
        if attempt.image_id in (None, earlier):
            continue
        trainer = is_job_stage(attempt.stage)
        others = [other.image_id for other in stages if trainer and is_job_stage(other.stage)]
        different = [image for image in (earlier, *others) if image not in (None, attempt.image_id)]
        if different:
            component = "trainer" if trainer else "serving"
            moved_tags.append(
                f"The {attempt.stage} stage runs the image {attempt.image_id}, but an earlier pod "
                f"of the revision ran the image {different[0]}. The name "
                f"{getattr(target.config.images, component)} now refers to another image. To use "
                f"one image for a whole revision, set the chart value {component}.image.digest. "
                "Then set spec.rerun to a new value to start a new revision."
            )
    return tuple(moved_tags)
