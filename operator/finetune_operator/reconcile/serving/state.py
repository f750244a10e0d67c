"""The serving side of a job: its serving build, attempts at serving, and replicas."""

from dataclasses import dataclass
from datetime import datetime

from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.actions import Apply, Scale
from finetune_operator.manifests import serving, verifier, vllm
from finetune_operator.objects import deployments, naming
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.reconcile.messages import copy_command
from finetune_operator.reconcile.serving import readiness
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision


@dataclass(frozen=True)
class Replicas:
    """How many pods a build should have, and why they may be fewer than the spec asks for."""

    count: int
    warnings: tuple[str, ...] = ()


def serving_build(snapshot: IndexedSnapshot, ledger: Ledger) -> str | None:
    """Return the build that the Service selects, or None if no build has been served yet.

    The Service is newer than the status if the operator has just moved it, to one of the job's
    builds that has not failed. Any other selector was set by another writer: the status counts.
    If the Service was lost, the build of the status serves as long as it has a Deployment. A job
    that was restored from a backup has neither, but may have the volume of the build.
    """
    previous = snapshot.previous.serving_build
    if previous is not None and endpoint_of(ledger, previous) is not None:
        live = _selected(snapshot)
        # The Service of a build without pods selects those of its endpoint, and no build.
        return live if live in snapshot.builds and not failed(ledger, str(live)) else previous
    if snapshot.service is None:
        revision = ledger.revision_of(previous) if previous is not None else None
        returns = snapshot.restored and revision is not None and snapshot.volume(revision)
        return previous if previous in snapshot.builds or returns else None
    live = _selected(snapshot)
    if live is None or live == previous:
        return previous
    if live in snapshot.builds and not failed(ledger, live):
        return live
    if previous in snapshot.builds or ledger.revision_of(live) is None:
        return previous
    return live


def answering(snapshot: IndexedSnapshot, build: str) -> int:
    """Return the number of pods of a build that answer."""
    child = snapshot.builds.get(build)
    return deployments.answering(child.object if child is not None else None)


def _selected(snapshot: IndexedSnapshot) -> str | None:
    """Return the build that the Service selects now, or None."""
    if snapshot.service is None:
        return None
    build: str | None = (snapshot.service.object["spec"].get("selector") or {}).get(naming.BUILD)
    return build


def endpoint_of(ledger: Ledger, build: str) -> str | None:
    """Return the FineTuneEndpoint that serves a build; None for serving pods of the job."""
    attempt = ledger.serving(build)
    return None if attempt is None else attempt.endpoint


def failed(ledger: Ledger, build: str) -> bool:
    """Report whether a build failed before it was ever ready."""
    attempt = ledger.serving(build)
    return attempt is not None and attempt.outcome == "Failed"


def judged(
    snapshot: IndexedSnapshot, attempt: Attempt, build: str, *, selectable: bool, now: datetime
) -> Attempt:
    """Return an attempt at serving a build with the outcome that the build's pods show.

    selectable: whether the Service selects the build, or may select it.
    """
    deployment = snapshot.builds.get(build)
    if deployment is None or attempt.outcome != "Starting" or deployment.attempt != attempt.attempt:
        return attempt
    if deployments.answering(deployment.object) and selectable:
        return attempt.model_copy(update={"outcome": "Completed"})
    pods = readiness.pods_of(snapshot, build, attempt.attempt)
    if failure := readiness.failure(deployment.object, pods, now):
        end = {"outcome": "Failed", "reason": failure.reason, "message": failure.message}
        return attempt.model_copy(update=end)
    return attempt


def misdirected(
    snapshot: IndexedSnapshot, target: TargetRevision, build: str, endpoint: str | None
) -> bool:
    """Report whether the Service is lost, or is not exactly that of a build's pods.

    endpoint: the FineTuneEndpoint that serves the build, or None.
    """
    if snapshot.service is None:
        return True
    present = snapshot.service.object
    desired = serving.service(snapshot.job, target, build, endpoint=endpoint)
    same = all(present["spec"].get(key) == desired["spec"][key] for key in ("selector", "ports"))
    return not (same and naming.has_exact_owners(desired, present))


def replicas(snapshot: IndexedSnapshot, target: TargetRevision, revision: str | None) -> Replicas:
    """Return how many pods a build of a revision should have.

    A volume that only one node can mount serves at most one.
    """
    desired = target.resolved.spec.serving.replicas
    volume = snapshot.volume(str(revision)) if desired > 1 else None
    if volume is None or "ReadWriteMany" in volume.object["spec"]["accessModes"]:
        return Replicas(desired)
    return Replicas(
        1,
        (
            f"PersistentVolumeClaim {volume.name} can be mounted by one node only (ReadWriteOnce), "
            "so only one replica serves. To serve more replicas, set spec.rerun to a new value. "
            "The job then trains a new revision on a new volume with the access mode of "
            "spec.storage.accessMode.",
        ),
    )


def last_pods(snapshot: IndexedSnapshot, ledger: Ledger, build: Child) -> Replicas:
    """Return the present replicas of a build whose volume no further pod can mount."""
    count, revision = int(build.object["spec"].get("replicas") or 0), str(build.revision)
    volume = snapshot.volume(revision)
    if volume is None or count == 0:
        return Replicas(count)
    command = copy_command(snapshot.job, revision, merged=ledger.is_merged(revision))
    return Replicas(
        count,
        (
            f"PersistentVolumeClaim {volume.name} is terminating. The pods of build {build.build} "
            "still serve from it, and the operator keeps them because no new pod can mount it. To "
            f"save the model, run: {command}. To stop these pods, set spec.serving.replicas to 0.",
        ),
    )


def stopped(build: Child) -> tuple[Scale, ...]:
    """Return the action that ends all pods of a build and leaves the rest of it as it is."""
    return (Scale(object=build.object, replicas=0),) if build.object["spec"]["replicas"] else ()


def deployment(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, *, replicas: int, number: int
) -> Apply:
    """Return the action that creates or updates the Deployment of the target's build.

    number: that of the attempt at serving it.
    """
    artifacts = ledger.revision(target.revision).artifacts
    merged = ledger.merging(target.revision, target.build)
    merged_dtype = merged.merged_dtype if merged is not None else None
    model = vllm.ServedModel(
        dtype=merged_dtype or target.resolved.spec.merge.dtype,
        base_bytes=artifacts.base_bytes,
        custom_template=artifacts.chat_template is not None,
        adapted_modules=tuple(artifacts.adapted_modules or ()),
    )
    adapted = target.resolved.spec.serving.mode == "adapter"
    served = artifacts.base_manifest if adapted else merged and merged.merged_manifest
    # A digest that the ledger does not have equals that of no folder.
    manifests = verifier.Manifests(
        served=served or "",
        adapter=artifacts.adapter_manifest or "",
        reference=artifacts.reference_manifest,
    )
    return Apply(
        object=serving.deployment(
            snapshot.job, target, model, manifests, replicas=replicas, attempt=number
        )
    )
