"""Wakes the jobs of a profile, or the jobs and endpoints of a budget, after it has changed.

It observes each reconcile of a profile or budget, in place of metrics: a reconcile follows every
change, however the operator learns of it. Several changes cause one pass over the jobs.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_operator import delays
from finetune_operator.budgets.admission import Request
from finetune_operator.budgets.balances import Balance
from finetune_operator.controller.controller import Controller
from finetune_operator.kube.kinds import FINETUNEBUDGET, FINETUNEPROFILE
from finetune_operator.objects import naming
from finetune_operator.snapshot.budgets.budgets import Budgets
from finetune_operator.telemetry.budget_metrics import BUDGET_METRICS
from finetune_operator.types import (
    BudgetSnapshot,
    EndpointSnapshot,
    Key,
    Object,
    Plan,
    ProfileSnapshot,
    Snapshot,
)

State = tuple[int, bool]
"""Generation of a profile, and whether it is a default."""


@dataclass(kw_only=True)
class ProfileFollowers:
    """The changed profiles whose jobs are still to be woken; the ``Telemetry`` of profiles."""

    jobs: Controller[Snapshot]
    _states: dict[str, State] = field(default_factory=dict)
    _changed: set[str] = field(default_factory=set)
    _defaults_changed: bool = False
    _event: asyncio.Event = field(default_factory=asyncio.Event)

    def observed(self, key: Key, snapshot: ProfileSnapshot, status: Object) -> None:
        """Record the generation of a profile."""
        profile = snapshot.profile
        state = profile["metadata"]["generation"], naming.is_default_profile(profile)
        before = self._states.get(key[1])
        if before != state:
            self._states[key[1]] = state
            self._record(key[1], is_default=state[1] or (before is not None and before[1]))

    def written(self, snapshot: ProfileSnapshot, plan: Plan) -> None:
        """Count nothing."""

    def forget(self, key: Key) -> None:
        """Record that a profile was deleted, or that another replica reconciles it."""
        if (before := self._states.pop(key[1], None)) is not None:
            self._record(key[1], is_default=before[1])

    async def run(self) -> None:
        """Wake jobs until cancelled."""
        while True:
            await self._event.wait()
            self._event.clear()
            self.wake()

    def wake(self) -> None:
        """Queue the jobs of all profiles that have changed."""
        changed, defaults = self._changed, self._defaults_changed
        self._changed, self._defaults_changed = set(), False
        store = self.jobs.reconciler.store
        for key in store.own_keys():
            job = store.owner(key)
            if job is None:
                continue
            name = job["spec"].get("profile")
            if defaults if name is None else name in changed:
                self.jobs.notify(key, FINETUNEPROFILE, 0, True)

    def _record(self, name: str, *, is_default: bool) -> None:
        self._changed.add(name)
        self._defaults_changed |= is_default
        self._event.set()


@dataclass(frozen=True, kw_only=True)
class BudgetState:
    """What decides which jobs a budget lets start."""

    generation: int
    balance: Balance | None
    waiting: Mapping[Key, Request]
    """The jobs that wait for the budget."""

    @property
    def stops_endpoints(self) -> bool:
        """Whether the budget lets no endpoint have further pods, or any."""
        serving = None if self.balance is None else self.balance.serving
        return serving is not None and serving.exhausted

    def gained_room_since(self, before: "BudgetState") -> bool:
        """Report whether jobs that waited may start now.

        Training moves GPU time from the reserved to the used amount, which makes no room. A job
        that leaves the queue, or needs less, makes room for those behind it. While no job waits,
        usage is observed late, so what the first one that waits has seen may be gone already.
        """
        new, old = self.balance, before.balance
        if new is None or old is None:
            return new is not old
        committed, earlier = new.committed, old.committed
        return (
            new.period != old.period
            or new.running < old.running
            or committed.gpu_seconds < earlier.gpu_seconds
            or committed.cost < earlier.cost
            or (bool(self.waiting) and not before.waiting)
            or any(self.waiting.get(key) != request for key, request in before.waiting.items())
        )


@dataclass(kw_only=True)
class BudgetFollowers:
    """The jobs that are still to be woken by budgets; the ``Telemetry`` of budgets."""

    jobs: Controller[Snapshot]
    budgets: Budgets
    own: Controller[BudgetSnapshot] | None = None
    """The controller of the budgets, once it is made."""
    endpoints: Controller[EndpointSnapshot] | None = None
    """The controller of the FineTuneEndpoints, which budgets limit, too."""
    _states: dict[str, BudgetState] = field(default_factory=dict)
    _changed: bool = False
    """Whether a budget was created, changed or deleted."""
    _freed: set[Key] = field(default_factory=set)
    """Jobs that wait for a budget with more room than before."""
    _used: set[str] = field(default_factory=set)
    """Namespaces whose usage has changed."""
    _event: asyncio.Event = field(default_factory=asyncio.Event)

    def observed(self, key: Key, snapshot: BudgetSnapshot, status: Object) -> None:
        """Record the statement and the state of a budget."""
        BUDGET_METRICS.observed(key[1], snapshot.balance, snapshot.waiting)
        waiting = self.budgets.waiting.of(key[1])
        state = BudgetState(
            generation=snapshot.budget["metadata"]["generation"],
            balance=snapshot.balance,
            waiting={(request.namespace, request.name): request for request in waiting},
        )
        before, self._states[key[1]] = self._states.get(key[1]), state
        if (
            before is None
            or before.generation != state.generation
            or state.stops_endpoints != before.stops_endpoints
        ):
            self._changed = True
        elif state.gained_room_since(before):
            self._freed |= state.waiting.keys() | before.waiting.keys()
        else:
            return
        self._event.set()

    def written(self, snapshot: BudgetSnapshot, plan: Plan) -> None:
        """Count nothing."""

    def forget(self, key: Key) -> None:
        """Record that a budget was deleted, or that another replica reconciles it."""
        BUDGET_METRICS.forget(key[1])
        if self._states.pop(key[1], None) is not None:
            self._changed = True
            self._event.set()

    def used(self, namespace: str) -> None:
        """Record that the usage of a namespace has changed."""
        self._used.add(namespace)
        self._event.set()

    async def run(self) -> None:
        """Wake jobs until cancelled."""
        while True:
            await self._event.wait()
            self._event.clear()
            self.wake()

    def wake(self) -> None:
        """Queue the budgets whose usage has changed, and the jobs that may start or must stop.

        A budget wakes the jobs that wait for it once it has more room. It is rarely edited, so all
        jobs and FineTuneEndpoints are then queued.
        """
        store = self.jobs.reconciler.store
        keys = set(store.own_keys()) if self._changed else self._freed
        if self._changed and self.endpoints is not None:
            for key in sorted(self.endpoints.reconciler.store.own_keys()):
                self.endpoints.notify(key, FINETUNEBUDGET, 0, True)
        names = frozenset().union(*map(self.budgets.selecting, self._used))
        self._changed, self._freed, self._used = False, set(), set()
        for key in sorted(keys):
            self.jobs.notify(key, FINETUNEBUDGET, 0, True)
        if self.own is not None:
            for name in sorted(names):
                if self.budgets.waiting.of(name):
                    self.own.notify(("", name), FINETUNEBUDGET, 0, True)
                else:
                    self.own.notify_later(("", name), FINETUNEBUDGET, delays.STATEMENT)
