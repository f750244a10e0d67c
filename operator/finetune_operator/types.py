"""What flows through a reconciliation: ``Observed`` in, ``Plan`` out.

Kubernetes objects are plain dicts, as the API server sends and takes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Object = Mapping[str, Any]
"""A Kubernetes object."""

Key = tuple[str, str]
"""Namespace and name of a FineTuneJob."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the running trainer's metrics said; None is "not known", never "none yet"."""

    ratio: float | None = None
    global_step: int | None = None
    max_steps: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    last_checkpoint_step: int | None = None
    gpu_seconds: float | None = None
    downloaded_bytes: int | None = None
    total_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a serving pod's verification said; distances in nats (rms), None is "not compared"."""

    pod: str
    build: str
    outcome: str
    distance: float | None = None
    tolerance: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A FineTuneJob and everything that carries its label, read live in one look.

    The lists hold what is labelled ``finetune.dev/job=<name>`` in the job's namespace, whoever
    owns it. ``events`` are the warnings about the PVCs, Jobs and pods among it, and all about a
    Job that is suspended.
    """

    job: Object
    configmaps: tuple[Object, ...] = ()
    volumes: tuple[Object, ...] = ()
    jobs: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    deployments: tuple[Object, ...] = ()
    services: tuple[Object, ...] = ()
    networkpolicies: tuple[Object, ...] = ()
    budgets: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    progress: Progress | None = None
    """Of the running train pod, where its metrics could be read in this look."""

    verification: Verification | None = None
    """Of a ready serving pod whose verification the status does not tell yet."""


LISTS = {
    "ConfigMap": "configmaps",
    "PersistentVolumeClaim": "volumes",
    "Job": "jobs",
    "Pod": "pods",
    "Deployment": "deployments",
    "Service": "services",
    "NetworkPolicy": "networkpolicies",
    "PodDisruptionBudget": "budgets",
}
"""The kinds of children, and where ``Observed`` has them."""


@dataclass(frozen=True, kw_only=True)
class Create:
    """Create an object of a deterministic name, once.

    One that is there already and is ours is success; somebody else's is a NameConflict.
    """

    object: Object


@dataclass(frozen=True, kw_only=True)
class Apply:
    """Server-side apply an object; the operator owns the fields it names."""

    object: Object


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Merge changes into exactly this object (uid and resourceVersion)."""

    object: Object
    changes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Delete exactly this object (uid and resourceVersion), its dependents by ``propagation``."""

    object: Object
    propagation: Literal["Foreground", "Background"] = "Foreground"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Set the replicas of a Deployment whose other fields are left as they are."""

    object: Object
    replicas: int


Action = Create | Apply | Patch | Delete | Scale


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that people should see in ``kubectl describe``."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do about one look.

    ``status`` is written first, with the resourceVersion that was observed; the actions follow
    in order, and only if that write succeeded: the ledger in the status is always ahead of the
    children. An empty plan means that everything is as it should be.
    """

    status: Mapping[str, Any]
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds until the next look, where no event would cause one."""
