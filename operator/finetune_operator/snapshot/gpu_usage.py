"""The pods of a namespace that use GPUs, and its trainings, as the store knows them.

The store forgets a pod that was removed, so its last state, which has the time of its end, is kept
until the next settlement.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from finetune_operator.kube.client import Kube
from finetune_operator.kube.kinds import FINETUNEJOB
from finetune_operator.objects import naming
from finetune_operator.objects.gpu_pods import holds_gpu, pod_use, trainings
from finetune_operator.objects.trimming import trimmed
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.types import Object
from finetune_operator.usage.settlement import Account, Observation, PodUse

MOST_REMOVED = 10_000
"""Pods that were removed since the last settlement. The end of further ones is estimated."""


@dataclass(frozen=True, slots=True)
class RemovedPod:
    """The last state of a removed pod, and when it was removed."""

    pod: Object
    at: int

    @property
    def namespace(self) -> str:
        """Namespace of the pod."""
        return str(self.pod["metadata"]["namespace"])


Removed = dict[str, RemovedPod]
"""By uid."""


@dataclass(kw_only=True)
class GpuUsage:
    """Observes the namespaces of a store."""

    kube: Kube
    store: ObjectStore
    resource: str
    """Name of the GPUs, such as nvidia.com/gpu."""
    clock: Callable[[], int]
    """By the API server, in seconds since 1970."""
    removed: Removed = field(default_factory=dict)

    def watch_removals(self) -> None:
        """Keep the last state of the pods that are removed from now on."""
        self.removed.clear()
        self.store.on_removal = self._keep

    def forget_removals(self) -> None:
        """Keep no more pods."""
        self.store.on_removal = lambda item: None
        self.removed.clear()

    def _keep(self, item: Object) -> None:
        if item["kind"] == "Pod" and len(self.removed) < MOST_REMOVED:
            pod = trimmed(item)
            if holds_gpu(pod):
                self.removed[pod["metadata"]["uid"]] = RemovedPod(pod, self.clock())

    def namespaces(self) -> set[str]:
        """Return the namespaces that have pods, or had some since the last settlement."""
        return {
            *self.store.namespaces("Pod"),
            *(each.namespace for each in self.removed.values()),
        }

    async def observe(self, account: Account, namespace: str) -> tuple[Observation, Removed]:
        """Return everything that the settlement of a namespace depends on. Raises OperatorError.

        The removed pods in it are returned, too: ``settled`` forgets them.
        """
        known = {key.rsplit("/", 1)[1]: key for key, mark in account.marks.items() if mark.gpus}
        jobs = {job["metadata"]["name"]: job for job in self.store.all(FINETUNEJOB, namespace)}
        states = {key: state for job in jobs.values() for key, state in trainings(job)}
        for key, mark in account.marks.items():
            if mark.gpus or mark.ended or key in states or mark.job in jobs:
                continue
            # A reservation ends only if the API server confirms that its job is gone.
            found = await self.kube.get(FINETUNEJOB, namespace, mark.job)
            states |= {} if found is None else dict(trainings(found))
        removed = {uid: each for uid, each in self.removed.items() if each.namespace == namespace}
        pods: dict[str, PodUse] = {}
        candidates: list[tuple[Object, int | None]] = [
            *((pod, None) for pod in self.store.all("Pod", namespace)),
            *((each.pod, each.at) for each in removed.values()),
        ]
        for pod, at in candidates:
            job = jobs.get(naming.label(pod, naming.JOB) or "")
            use = pod_use(pod, job, known=known, resource=self.resource, removed=at)
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
