"""The pods of jobs and endpoints that hold GPUs, as sources of usage."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache

from finetune_api.quantity import amount
from finetune_api.v1alpha1.profile import Price
from finetune_operator.objects import endpoints, naming, status_view
from finetune_operator.objects.jobs import created, pod_has_ended
from finetune_operator.objects.pods import ended, has_a_node, scheduled_since
from finetune_operator.objects.stages import needs_gpu, serves
from finetune_operator.types import Object
from finetune_operator.usage.settlement import OF_SERVING, PodUse
from finetune_operator.usage.values import training_key

UNDER_WAY = ("Starting", "Running")
UNKNOWN_JOB = "-"
"""In place of the uid of a job that was deleted before its pod was observed."""


def pod_use(
    pod: Object,
    job: Object | None,
    *,
    keys: Mapping[str, str],
    deleted: Mapping[tuple[str, str], str],
    resource: str,
    removed: int | None = None,
) -> PodUse | None:
    """Return the usage of a pod; None if it never held a GPU, or if its end is unknown.

    job: with the name in its label. If the pod is older, it is that of an earlier job of the same
    name, which was deleted. keys: keys of pods that are charged already, by uid; deleted: keys of
    the trainings of deleted jobs, by the names of job and revision; resource: name of the GPUs;
    removed: when the pod was removed from the API server.
    """
    if job is not None and created(pod) < created(job):
        job = None
    is_over = pod_has_ended(pod) or removed is not None
    end = _end(pod) if is_over else None
    uid = pod["metadata"]["uid"]
    # Users may be able to change labels, so a pod that is charged already needs none.
    stage = naming.label(pod, naming.STAGE)
    has_gpu = uid in keys or needs_gpu(stage) or stage == endpoints.SERVING
    if not (has_gpu and has_a_node(pod)) or (is_over and end is None and removed is None):
        return None
    revision = naming.label(pod, naming.REVISION) or ""
    price = None if job is None or uid in keys else _price(job, revision)
    return PodUse(
        key=keys.get(uid) or _key(pod, job, revision, deleted),
        job=naming.label(pod, naming.JOB) or naming.label(pod, naming.ENDPOINT) or "",
        gpus=_gpus(pod, resource),
        start=int(scheduled_since(pod).timestamp()),
        end=removed if end is None else _seconds(end),
        price=price,
    )


def trainings(job: Object) -> Iterator[tuple[str, bool]]:
    """Yield the keys of the trainings in the ledger of a job, and whether they are under way.

    Only that of the present revision can be. A Job that ended when the spec was edited is not
    followed, so the ledger may have its attempt as running for as long as it has the revision.
    """
    uid, status = job["metadata"]["uid"], status_view.of_job(job)
    for revision in status.revisions():
        for attempt in revision.attempts:
            if attempt.runs_as_job and needs_gpu(attempt.stage):
                is_present = status.is_about(revision.name)
                runs = is_present and attempt.outcome in UNDER_WAY
                yield training_key(uid, revision.name), runs


def _end(pod: Object) -> datetime | None:
    """Return when a pod ended. One that its node rejected has no containers, and used nothing."""
    rejected = pod_has_ended(pod) and not pod["status"].get("containerStatuses")
    return scheduled_since(pod) if rejected else ended(pod)


def _key(
    pod: Object, job: Object | None, revision: str, deleted: Mapping[tuple[str, str], str]
) -> str:
    uid, stage = pod["metadata"]["uid"], naming.label(pod, naming.STAGE)
    if serves(stage) or stage == endpoints.SERVING:
        return f"{OF_SERVING}{uid}"
    if job is not None:
        return f"{training_key(job['metadata']['uid'], revision)}/{uid}"
    name = naming.label(pod, naming.JOB) or ""
    return f"{deleted.get((name, revision)) or training_key(UNKNOWN_JOB, revision)}/{uid}"


def _gpus(pod: Object, resource: str) -> int:
    """Return the number of GPUs of a pod. A stage with a GPU has at least one."""
    limits = (
        container.get("resources", {}).get("limits", {})
        for container in pod["spec"].get("containers", ())
    )
    return max(1, sum(int(amount(str(limit.get(resource, 0)))) for limit in limits))


def _price(job: Object, revision: str) -> Price | None:
    """Return the price in the frozen configuration of a revision."""
    for record in status_view.of_job(job).revisions():
        if record.name == revision:
            return _frozen_price(record.operator)
    return None


@lru_cache(maxsize=256)
def _frozen_price(operator: str) -> Price | None:
    try:
        price = (json.loads(operator).get("profile") or {}).get("price")
        return None if price is None else Price.model_validate(price)
    except ValueError:
        # Another version wrote it.
        return None


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
