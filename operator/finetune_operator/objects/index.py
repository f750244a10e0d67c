"""A snapshot with its objects' labels, owners and states parsed once, and looked up by key."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.budgets.accounts import Accounts
from finetune_operator.objects import naming, status_view
from finetune_operator.objects.jobs import created, is_over, pod_has_ended
from finetune_operator.objects.status_view import StatusView
from finetune_operator.queues.values import Queues
from finetune_operator.types import Object, PodProgress, Requests, Snapshot, Verification
from finetune_operator.usage.values import NamespaceUsage


class Child(NamedTuple):
    """An object with the job's label, whoever owns it, with its metadata parsed."""

    object: Object
    name: str
    uid: str
    owned: bool
    """Whether this job owns it, not another job of the same name."""

    revision: str | None
    build: str | None
    stage: str | None
    serves: bool
    """Whether it is labeled as a pod that serves a model."""

    attempt: int | None
    terminating: bool
    ended: bool
    """Whether a Job has finished, or a pod has terminated."""


@dataclass(frozen=True, kw_only=True)
class IndexedSnapshot:
    """A FineTuneJob, its previous status, and its objects by key."""

    job: Object
    name: str
    previous: StatusView
    jobs: tuple[Child, ...]
    pods: tuple[Child, ...]
    volumes: tuple[Child, ...]
    configmaps: tuple[Child, ...]
    deployments: tuple[Child, ...]
    others: tuple[Child, ...]
    """Services, NetworkPolicies and PodDisruptionBudgets."""

    own_jobs: Mapping[str, Child]
    """By name, which names revision, stage and attempt."""

    own_volumes: Mapping[str, Child]
    """By name, which names the revision."""

    builds: Mapping[str, Child]
    """The job's own Deployments, by build."""

    own_configmaps: Mapping[str, Child]
    """By name, which names the revision."""

    own_policies: Mapping[str, Object]
    service: Child | None
    budget: Child | None
    events: tuple[Object, ...]
    created: Mapping[str, bool]
    progress: PodProgress | None
    verification: Verification | None
    requests: Mapping[str, Requests]
    """By uid of the pod."""

    loaded: float | None
    endpoints: tuple[Object, ...]
    accounts: Accounts | None
    usage: NamespaceUsage | None
    queues: Queues | None
    pods_by_controller: Mapping[str, tuple[Object, ...]]

    @property
    def restored(self) -> bool:
        """Whether the job was restored from a backup, and not all of its volumes are re-owned."""
        own = self.job["metadata"]["uid"]
        return any(owner != own for owner in self.previous.volume_owners)

    def named_for(self, revision: str, attempt: Attempt) -> Child | None:
        """Return the Job with the name of an attempt, whoever created it, or None."""
        return self.own_jobs.get(
            naming.job_name(self.name, revision, attempt.stage, attempt.attempt)
        )

    def job_of(self, revision: str, attempt: Attempt) -> Child | None:
        """Return the Job that the operator created for an attempt, or None.

        The ledger records its uid: anyone who may create Jobs can create one of the same name.
        """
        job = self.named_for(revision, attempt)
        return job if job is not None and job.uid == attempt.job else None

    def volume(self, revision: str) -> Child | None:
        """Return the job's own volume of a revision, or None."""
        return self.own_volumes.get(naming.revision_name(self.name, revision))

    def can_be_mounted(self, revision: str | None) -> bool:
        """Report whether new pods can mount the volume of a revision.

        Once a claim is terminating, the scheduler rejects them, and its content is lost when the
        last pod that mounts it is gone.
        """
        volume = self.volume(str(revision))
        return volume is not None and not volume.terminating

    def configmap(self, revision: str) -> Child | None:
        """Return the job's own ConfigMap of a revision, or None."""
        return self.own_configmaps.get(naming.revision_name(self.name, revision))

    def pods_of(self, job: Child) -> tuple[Object, ...]:
        """Return the pods that a Job controls, oldest first."""
        return self.pods_by_controller.get(job.uid, ())

    def all_children(self) -> tuple[Child, ...]:
        """Return every object with the job's label."""
        return (
            *self.configmaps,
            *self.volumes,
            *self.jobs,
            *self.pods,
            *self.deployments,
            *self.others,
        )


def index(snapshot: Snapshot) -> IndexedSnapshot:
    """Return a snapshot with its objects parsed and looked up by key."""
    job = snapshot.job
    name: str = job["metadata"]["name"]
    jobs = _children(job, snapshot.jobs)
    volumes = _children(job, snapshot.volumes)
    deployments = _children(job, snapshot.deployments)
    services = _children(job, snapshot.services)
    policies = _children(job, snapshot.networkpolicies)
    budgets = _children(job, snapshot.budgets)
    configmaps = _children(job, snapshot.configmaps)
    return IndexedSnapshot(
        job=job,
        name=name,
        previous=status_view.of_job(job),
        jobs=jobs,
        pods=_children(job, snapshot.pods),
        volumes=volumes,
        configmaps=configmaps,
        deployments=deployments,
        others=(*services, *policies, *budgets),
        own_jobs=_own(jobs),
        own_volumes=_own(volumes),
        builds={child.build: child for child in _own(deployments).values() if child.build},
        own_configmaps=_own(configmaps),
        own_policies={name: child.object for name, child in _own(policies).items()},
        service=_own(services).get(naming.service_name(name)),
        budget=_own(budgets).get(naming.service_name(name)),
        events=snapshot.events,
        created=snapshot.created,
        progress=snapshot.progress,
        verification=snapshot.verification,
        requests={answered.pod: answered for answered in snapshot.requests},
        loaded=snapshot.loaded,
        endpoints=snapshot.endpoints,
        accounts=snapshot.accounts,
        usage=snapshot.usage,
        queues=snapshot.queues,
        pods_by_controller=_by_controller(snapshot.pods),
    )


def _children(job: Object, objects: Iterable[Object]) -> tuple[Child, ...]:
    return tuple(_child(job, child) for child in objects)


def _child(job: Object, child: Object) -> Child:
    metadata = child["metadata"]
    labels = metadata.get("labels", {})
    number = str(labels.get(naming.ATTEMPT, ""))
    kind = child["kind"]
    return Child(
        object=child,
        name=metadata["name"],
        uid=metadata["uid"],
        owned=naming.owned_by(job, child),
        revision=labels.get(naming.REVISION),
        build=labels.get(naming.BUILD),
        stage=labels.get(naming.STAGE),
        serves=kind == "Pod" and naming.is_serving(child),
        attempt=int(number) if number.isdecimal() else None,
        terminating="deletionTimestamp" in metadata,
        ended=(kind == "Pod" and pod_has_ended(child)) or (kind == "Job" and is_over(child)),
    )


def _own(children: Iterable[Child]) -> dict[str, Child]:
    """Return the children that the job owns, by name."""
    return {child.name: child for child in children if child.owned}


def _by_controller(pods: Iterable[Object]) -> Mapping[str, tuple[Object, ...]]:
    controlled: dict[str, tuple[Object, ...]] = {}
    for pod in sorted(pods, key=created):
        if (controller := naming.controller_of(pod)) is not None:
            uid = controller["uid"]
            controlled[uid] = (*controlled.get(uid, ()), pod)
    return controlled
