"""The pods of a namespace that use GPUs, and its trainings, as the store knows them.

The store forgets a pod that was removed, so its last state, which has the time of its end, is kept
until the next settlement. A watch with a selector also reports the loss of a label as a removal: a
pod that has not ended is read by its name, and is charged for as long as it exists.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Terminal
from finetune_operator.kube.kinds import FINETUNEJOB
from finetune_operator.objects import naming
from finetune_operator.objects.compact.trimming import trimmed
from finetune_operator.objects.gpu_pods import UNKNOWN_JOB, pod_use, trainings
from finetune_operator.objects.jobs import pod_has_ended
from finetune_operator.objects.pods import has_a_node
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.types import Object
from finetune_operator.usage.settlement import MonthAccount, Observation, PodUse
from finetune_operator.usage.values import training_key

MOST_REMOVED = 10_000
"""Pods that were removed since the last settlement. The end of further ones is estimated."""


@dataclass(frozen=True, slots=True)
class RemovedPod:
    """The last state of a removed pod, and until when it is known to have existed."""

    pod: Object
    at: int
    gone: bool
    """False for a pod that had not ended, and may only have lost a label."""

    @property
    def namespace(self) -> str:
        """Namespace of the pod."""
        return str(self.pod["metadata"]["namespace"])


Removed = dict[str, RemovedPod]
"""By uid."""


@dataclass(kw_only=True)
class GpuUsage:
    """Observes the namespaces of the stores."""

    kube: Kube
    store: ObjectStore
    """Of the jobs and their pods."""
    endpoints: ObjectStore
    """Of the FineTuneEndpoints and their pods."""
    resource: str
    """Name of the GPUs, such as nvidia.com/gpu."""
    clock: Callable[[], int]
    """By the API server, in seconds since 1970."""
    removed: Removed = field(default_factory=dict)

    def watch_removals(self) -> None:
        """Keep the last state of the pods that are removed from now on."""
        self.removed.clear()
        for store in self._stores:
            store.on_removal = self._keep

    def forget_removals(self) -> None:
        """Keep no more pods."""
        for store in self._stores:
            store.on_removal = lambda item: None
        self.removed.clear()

    @property
    def _stores(self) -> tuple[ObjectStore, ObjectStore]:
        return self.store, self.endpoints

    def _keep(self, item: Object) -> None:
        if item["kind"] == "Pod" and len(self.removed) < MOST_REMOVED:
            pod, has_ended = trimmed(item), pod_has_ended(item)
            # A pod that waits for a node may get one after it has lost a label.
            if has_a_node(pod) or not (has_ended or "deletionTimestamp" in pod["metadata"]):
                self.removed[pod["metadata"]["uid"]] = RemovedPod(pod, self.clock(), has_ended)

    def namespaces(self) -> set[str]:
        """Return the namespaces that have pods, or had some since the last settlement."""
        return {
            *(namespace for store in self._stores for namespace in store.namespaces("Pod")),
            *(last.namespace for last in self.removed.values()),
        }

    async def observe(self, account: MonthAccount, namespace: str) -> tuple[Observation, Removed]:
        """Return everything that the settlement of a namespace depends on. Raises OperatorError.

        The removed pods in it are returned, too: ``settled`` forgets them.
        """
        keys_by_uid = {
            key.rsplit("/", 1)[1]: key for key, mark in account.marks.items() if mark.gpus
        }
        jobs = {job["metadata"]["name"]: job for job in self.store.all(FINETUNEJOB, namespace)}
        states = {key: state for job in jobs.values() for key, state in trainings(job)}
        for key, mark in account.marks.items():
            if mark.gpus or mark.ended or key in states or mark.job in jobs:
                continue
            # A reservation ends only if the API server confirms that its job is gone.
            live_job = await self._get(FINETUNEJOB, namespace, mark.job)
            states |= {} if live_job is None else dict(trainings(live_job))
        deleted = _trainings_of_deleted_jobs(account, jobs)
        kept = {uid: last for uid, last in self.removed.items() if last.namespace == namespace}
        for uid, last in kept.items():
            if not last.gone:
                kept[uid] = self.removed[uid] = await self._present(last)
        removed = {uid: last for uid, last in kept.items() if last.gone}
        pods: dict[str, PodUse] = {}
        candidates: list[tuple[Object, int | None]] = [
            *((last.pod, None) for last in kept.values() if not last.gone),
            *((pod, None) for store in self._stores for pod in store.all("Pod", namespace)),
            *((last.pod, last.at) for last in removed.values()),
        ]
        for pod, at in candidates:
            job = jobs.get(naming.label(pod, naming.JOB) or "")
            use = pod_use(
                pod, job, keys=keys_by_uid, deleted=deleted, resource=self.resource, removed=at
            )
            if use is not None:
                pods[use.key] = use
        observation = Observation(
            pods=tuple(pods.values()),
            under_way=frozenset(key for key, under_way in states.items() if under_way),
            retained=frozenset(states),
        )
        return observation, removed

    def settled(self, removed: Removed) -> None:
        """Forget removed pods, which are charged."""
        for uid in removed:
            self.removed.pop(uid, None)

    async def _present(self, last: RemovedPod) -> RemovedPod:
        """Return the present state of a pod, with the labels that it had. Raises OperatorError."""
        metadata = last.pod["metadata"]
        present = await self._get("Pod", last.namespace, metadata["name"])
        if present is None or present["metadata"]["uid"] != metadata["uid"]:
            return replace(last, gone=True)
        pod = {**last.pod, "status": trimmed(present).get("status") or {}}
        return RemovedPod(pod, self.clock(), pod_has_ended(pod))

    async def _get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Read an object, None if it is gone. Raises OperatorError.

        It is also gone if the operator may not read it: its Role was deleted with its namespace, or
        the namespace is no longer watched.
        """
        try:
            # The operator may list pods, but not get them.
            items = await self.kube.list(kind, namespace, fields=f"metadata.name={name}")
        except Terminal:
            return None
        return next((item for item in items if item["metadata"]["name"] == name), None)


def _trainings_of_deleted_jobs(
    account: MonthAccount, jobs: Mapping[str, Object]
) -> dict[tuple[str, str], str]:
    """Return the keys of the last trainings of deleted jobs by the names of job and revision.

    jobs: those that exist, by name.
    """
    present = {training_key(job["metadata"]["uid"], "") for job in jobs.values()}
    trainings_by_time = sorted(
        ((mark.at, key, mark.job) for key, mark in account.marks.items() if not mark.gpus)
    )
    return {
        (job, key.rpartition("/")[2]): key
        for _, key, job in trainings_by_time
        if f"{key.rpartition('/')[0]}/" not in {*present, training_key(UNKNOWN_JOB, "")}
    }
