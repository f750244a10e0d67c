"""Facts about the pods of jobs, and about the GPUs that pods use. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api import GROUP
from finetune_api.contracts import labels

STAGE = f"{GROUP}/stage"
GPU_RESOURCES = ("nvidia.com/gpu", "nvidia.com/mig-", "amd.com/gpu", "gpu.intel.com/")
"""Prefixes of the resources of device plugins for GPUs, including shared ones and MIG devices.
nvidia.com has other devices, too, such as network cards."""
ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, kw_only=True)
class Container:
    """The state of a container of a pod."""

    name: str
    state: str
    """``running``, ``waiting`` or ``terminated``."""
    reason: str
    message: str
    exit_code: int | None
    restarts: int

    @property
    def healthy(self) -> bool:
        """Whether the container runs, has not started yet, or has succeeded."""
        if self.state == "terminated":
            return self.exit_code == 0
        return self.state == "running" or self.reason in (
            "",
            "ContainerCreating",
            "PodInitializing",
        )

    @property
    def text(self) -> str:
        """The state in words."""
        code = "" if self.exit_code is None else f"with exit code {self.exit_code}"
        restarts = f"{self.restarts} restarts" if self.restarts > 1 else "1 restart"
        parts = (
            self.state,
            code,
            f"({self.reason})" if self.reason else "",
            f"after {restarts}" if self.restarts else "",
        )
        return " ".join(filter(None, parts)) + (f": {self.message}" if self.message else "")


def containers(pod: Mapping[str, Any]) -> list[Container]:
    """Return the states of the containers, those of initialization first."""
    status = pod.get("status", {})
    return [
        _container(container)
        for kind in ("initContainerStatuses", "containerStatuses")
        for container in status.get(kind) or ()
    ]


def _container(status: Mapping[str, Any]) -> Container:
    state, details = next(iter((status.get("state") or {"waiting": {}}).items()))
    last = (status.get("lastState") or {}).get("terminated") or {}
    code = details.get("exitCode", last.get("exitCode") if state == "waiting" else None)
    return Container(
        name=str(status.get("name")),
        state=state,
        reason=str(details.get("reason", "")),
        # The result of a trainer is JSON for the operator.
        message="" if state == "terminated" else str(details.get("message", "")),
        exit_code=code,
        restarts=int(status.get("restartCount", 0)),
    )


def waits_for_node(pod: Mapping[str, Any]) -> bool:
    """Report whether a pod has no node yet."""
    pending = (pod.get("status") or {}).get("phase") == "Pending"
    return pending and not (pod.get("spec") or {}).get("nodeName")


def not_scheduled(pod: Mapping[str, Any]) -> str | None:
    """Return why the scheduler found no node, None if the pod has one or waits for its turn."""
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"
    return None


def newest(pods: Iterable[Mapping[str, Any]], stage: str | None = None) -> Mapping[str, Any] | None:
    """Return the newest pod, of a stage if that is set."""
    of_stage = [pod for pod in pods if stage is None or label(pod, STAGE) == stage]
    return max(of_stage, key=lambda pod: created(pod), default=None)


def created(pod: Mapping[str, Any]) -> str:
    """Return the creation time of a pod."""
    return str(pod["metadata"].get("creationTimestamp", ""))


def label(pod: Mapping[str, Any], key: str) -> str | None:
    """Return a label of a pod."""
    value = (pod["metadata"].get("labels") or {}).get(key)
    return None if value is None else str(value)


def job_of(pod: Mapping[str, Any]) -> str | None:
    """Return the name of the FineTuneJob of a pod, None for other pods."""
    return label(pod, labels.JOB)


def gpus(pod: Mapping[str, Any]) -> int:
    """Return the number of GPUs that a pod has reserved, or waits for; 0 after it has ended."""
    if pod.get("status", {}).get("phase") in ENDED:
        return 0
    return sum(
        int(amount)
        for container in pod["spec"].get("containers") or ()
        for name, amount in ((container.get("resources") or {}).get("limits") or {}).items()
        if name.startswith(GPU_RESOURCES) and str(amount).isdigit()
    )
