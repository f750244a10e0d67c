"""The pods that use a GPU or wait for one, as far as the user may see them."""

from dataclasses import asdict, dataclass
from typing import Any

from finetune_cli.cluster import api, pods
from finetune_cli.cluster.api import Cluster, Forbidden
from finetune_cli.cluster.job import seconds_since, time_of


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A pod that has a GPU (``node`` is set) or waits for one."""

    namespace: str
    pod: str
    job: str | None
    stage: str | None
    gpus: int
    node: str | None
    seconds: float | None

    @property
    def owner(self) -> str:
        """The job and its stage, or the pod."""
        if self.job is None:
            return f"pod {self.namespace}/{self.pod}"
        return f"{self.namespace}/{self.job}" + (f" ({self.stage})" if self.stage else "")

    def document(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The pods with a GPU, and whether they are those of the whole cluster."""

    holders: tuple[Holder, ...]
    whole: bool

    def place(self, namespace: str, job: str) -> tuple[int, int] | None:
        """Return the place of a job among the pods that wait, the longest first, and their number.

        None if no pod of the job waits. The scheduler prefers pods with a higher priority.
        """
        waiting = [holder for holder in self.holders if holder.node is None]
        for place, holder in enumerate(waiting, 1):
            if (holder.namespace, holder.job) == (namespace, job):
                return place, len(waiting)
        return None


def seen(cluster: Cluster) -> Seen:
    """Return the pods of all namespaces, or those of the namespace if the user may list no others.

    Raises CommandFailed.
    """
    try:
        listed, whole = cluster.items(api.path("pods")), True
    except Forbidden:
        listed, whole = cluster.items(api.path("pods", cluster.namespace)), False
    holders = [_holder(pod) for pod in listed if pods.gpus(pod)]
    # Those with a GPU first, the longest first.
    holders.sort(key=lambda holder: (holder.node is None, -(holder.seconds or 0)))
    return Seen(holders=tuple(holders), whole=whole)


def _holder(pod: dict[str, Any]) -> Holder:
    metadata, status = pod["metadata"], pod.get("status", {})
    return Holder(
        namespace=metadata["namespace"],
        pod=metadata["name"],
        job=pods.job_of(pod),
        stage=pods.label(pod, pods.STAGE),
        gpus=pods.gpus(pod),
        node=pod["spec"].get("nodeName"),
        seconds=seconds_since(time_of(status.get("startTime") or metadata["creationTimestamp"])),
    )
