"""The input and output of a reconcile: ``Snapshot`` in, ``Plan`` out.

Kubernetes objects are plain dicts, as the API server sends and accepts them.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from finetune_api.contracts.endpoint import EndpointStatus
from finetune_operator.actions import Action, is_independent
from finetune_operator.budgets.accounts import Accounts
from finetune_operator.budgets.balances import Balance
from finetune_operator.config import Settings
from finetune_operator.queues.values import Queues
from finetune_operator.usage.values import NamespaceUsage, ReservationRequest

Object = Mapping[str, Any]
"""A Kubernetes object."""

NO_JOBS: Mapping[str, bool] = MappingProxyType({})
"""``Snapshot.created`` of an object without Jobs that were just created."""

Key = tuple[str, str]
"""Namespace (empty if it is cluster-scoped) and name of an object of one of our own kinds."""


@dataclass(frozen=True, kw_only=True)
class PodProgress:
    """A running stage pod's metrics; None means "unknown", never "none yet"."""

    pod: str
    """UID of the pod."""
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
    phase: str | None = None
    """Part of the stage that runs now, if it has a name."""
    card: str | None = None
    """Product of the GPU, as in the node label nvidia.com/gpu.product."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """A serving pod's verification result; distances in nats (rms), None means "not compared"."""

    pod: str
    build: str
    outcome: str
    distance: float | None = None
    tolerance: float | None = None
    smallest_fault: float | None = None
    """Smallest fault that the comparison would detect, as a share of the effect of tuning."""
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Requests:
    """The requests of clients that a ready serving pod has answered since its verification."""

    pod: str
    """UID of the pod."""
    count: int | None
    """None if the pod does not count them."""
    idle_seconds: float = 0.0
    """Seconds since the last one, or since the verification."""


class Observed(Protocol):
    """A snapshot of any of our own kinds, as the controller uses it."""

    @property
    def owner(self) -> Object:
        """The object that is reconciled."""

    def children(self, kind: str) -> tuple[Object, ...]:
        """Return the objects of a kind with the label of the owner, whoever owns them."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A FineTuneJob and all objects with its label, as one reconcile reads them.

    The lists hold the objects with the label ``finetune.dev/job=<name>`` in the job's namespace,
    whoever owns them. ``events`` are the warnings about its PersistentVolumeClaims, Jobs and pods,
    and all events about a suspended Job.
    """

    job: Object
    settings: Settings
    configmaps: tuple[Object, ...] = ()
    volumes: tuple[Object, ...] = ()
    jobs: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    deployments: tuple[Object, ...] = ()
    services: tuple[Object, ...] = ()
    networkpolicies: tuple[Object, ...] = ()
    budgets: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    profiles: tuple[Object, ...] = ()
    """The FineTuneProfile that the job names, or those that are the default if it names none."""

    parent: Object | None = None
    """The FineTuneJob in the same namespace whose adapter the job continues from, if it exists."""

    endpoints: tuple[Object, ...] = ()
    """Those of the FineTuneEndpoints in the job's spec and status that exist in its namespace."""

    usage: NamespaceUsage | None = None
    """Of the job's namespace; None if usage is not recorded."""

    accounts: Accounts | None = None
    """Of the FineTuneBudgets that select the job's namespace; None if there are none."""

    queues: Queues | None = None
    """Of Kueue in the job's namespace; None if the operator does not read them."""

    progress: PodProgress | None = None
    """Of the running stage pod, a train pod first, if its metrics could be read lately."""

    verification: Verification | None = None
    """Of a ready serving pod whose verification is not in the status yet."""

    requests: tuple[Requests, ...] = ()
    """Of ready serving pods, if the status asks for them and they could be read lately."""

    loaded: float | None = None
    """Share of the model's bytes, from 0 to 1, that a serving pod which starts has read."""

    created: Mapping[str, bool] = field(default_factory=dict)
    """UIDs of Jobs that this process has just created or found, and whether they have the content
    that it would create.

    Those that have it are recorded in the ledger. A process that restarts before this confirms the
    content again.
    """

    @property
    def owner(self) -> Object:
        """The FineTuneJob."""
        return self.job

    def children(self, kind: str) -> tuple[Object, ...]:
        """Return the objects of a kind with the label of the job, whoever owns them."""
        objects: tuple[Object, ...] = getattr(self, LISTS[kind])
        return objects


@dataclass(frozen=True, kw_only=True)
class ProfileSnapshot:
    """A FineTuneProfile, and the settings of the chart, as one reconcile reads them."""

    profile: Object
    settings: Settings

    @property
    def owner(self) -> Object:
        """The FineTuneProfile."""
        return self.profile

    def children(self, kind: str) -> tuple[Object, ...]:
        """Return nothing: a profile owns no objects."""
        return ()


@dataclass(frozen=True, kw_only=True)
class BudgetSnapshot:
    """A FineTuneBudget with its balance, as one reconcile reads them."""

    budget: Object
    balance: Balance | None = None
    """None if it is unknown."""
    problem: str | None = None
    """Why the balance is unknown."""
    unrecorded: bool = False
    """Whether that is because the operator records no usage."""
    namespaces: tuple[str, ...] = ()
    """Namespaces with usage in the present period."""
    selects: bool = True
    """Whether the budget selects a namespace, with or without usage."""
    waiting: int = 0
    """Number of jobs that wait for the budget."""
    serving_gpus: int = 0
    """GPUs of endpoints, if the budget limits them."""

    @property
    def owner(self) -> Object:
        """The FineTuneBudget."""
        return self.budget

    def children(self, kind: str) -> tuple[Object, ...]:
        """Return nothing: a budget owns no objects."""
        return ()


@dataclass(frozen=True, kw_only=True)
class EndpointSnapshot:
    """A FineTuneEndpoint and all objects with its label, whoever owns them."""

    endpoint: Object
    settings: Settings
    configmaps: tuple[Object, ...] = ()
    volumes: tuple[Object, ...] = ()
    jobs: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    deployments: tuple[Object, ...] = ()
    services: tuple[Object, ...] = ()
    networkpolicies: tuple[Object, ...] = ()
    budgets: tuple[Object, ...] = ()
    finetunejobs: tuple[Object, ...] = ()
    """The FineTuneJobs of the namespace that refer to the endpoint."""
    deleted_jobs: frozenset[str] = frozenset()
    """UIDs in ``status.folders`` of jobs that do not exist, and for which no pod publishes."""
    accounts: Accounts | None = None
    """Of the FineTuneBudgets that select the namespace; None if none of them limits endpoints."""
    gate: EndpointStatus | None = None
    """What the gate of the serving pod reported lately."""
    awaits_report: bool = False
    """Whether the operator started a short time ago, and the gate has not reported to it yet."""

    @property
    def owner(self) -> Object:
        """The FineTuneEndpoint."""
        return self.endpoint

    def children(self, kind: str) -> tuple[Object, ...]:
        """Return the objects of a kind with the label of the endpoint, whoever owns them."""
        objects: tuple[Object, ...] = getattr(self, LISTS[kind])
        return objects


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
"""The kinds of a job's children, and their fields in ``Snapshot``."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event about the reconciled object, shown by ``kubectl describe``."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The writes of one reconcile.

    ``status`` is written first, with the observed resourceVersion; the actions follow in order, and
    only if that write succeeded, so the ledger in the status is always ahead of the children. An
    unchanged status without actions means that the desired state is reached.

    The events are independent of the actions.
    """

    status: Mapping[str, Any]
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds until the next reconcile if no event causes one earlier."""
    reservation: ReservationRequest | None = None
    """GPU time to reserve. After the reservation was written, the job is planned again, and what
    this plan contains is not executed."""
    serving_gpus: int | None = None
    """GPUs that the endpoint needs, if it has fewer and a budget limits them. Once they are
    granted, the owner is planned again, and this plan is not executed."""

    def batches(self) -> Iterator[tuple[Action, ...]]:
        """Yield the actions in their order; those of one batch may be executed in any order.

        A batch follows only if the one before it succeeded. Successive creations of independent
        kinds are one batch; every other action is a batch of its own.
        """
        for independent, group in itertools.groupby(self.actions, key=is_independent):
            actions = tuple(group)
            yield from [actions] if independent else ((action,) for action in actions)


class Confirmation(NamedTuple):
    """The kinds that are read live before a plan is executed, and why."""

    cause: str
    kinds: frozenset[str]


UNCONFIRMED = Confirmation("", frozenset())
"""The plan needs no live read."""
