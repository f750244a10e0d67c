"""Wakes the jobs of a profile or of a budget after it has changed.

It observes each reconcile of a profile or budget, in place of metrics: a reconcile follows every
change, however the operator learns of it. Several changes cause one pass over the jobs.
"""

import asyncio
from dataclasses import dataclass, field

from finetune_operator.controller.controller import Controller
from finetune_operator.kube.kinds import FINETUNEBUDGET, FINETUNEPROFILE
from finetune_operator.objects import naming
from finetune_operator.snapshot.budgets import Budgets
from finetune_operator.telemetry.budget_metrics import BUDGET_METRICS
from finetune_operator.types import BudgetSnapshot, Key, Object, Plan, ProfileSnapshot, Snapshot

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


@dataclass(kw_only=True)
class BudgetFollowers:
    """The namespaces whose jobs are still to be woken; the ``Telemetry`` of budgets."""

    jobs: Controller[Snapshot]
    budgets: Budgets
    own: Controller[BudgetSnapshot] | None = None
    """The controller of the budgets, once it is made."""
    _generations: dict[str, int] = field(default_factory=dict)
    _changed: bool = False
    """Whether a budget was created, changed or deleted."""
    _freed: set[str] = field(default_factory=set)
    """Namespaces whose usage has changed."""
    _event: asyncio.Event = field(default_factory=asyncio.Event)

    def observed(self, key: Key, snapshot: BudgetSnapshot, status: Object) -> None:
        """Record the statement and the generation of a budget."""
        BUDGET_METRICS.observed(key[1], snapshot.balance, snapshot.waiting)
        generation = snapshot.budget["metadata"]["generation"]
        if self._generations.get(key[1]) != generation:
            self._generations[key[1]] = generation
            self._changed = True
            self._event.set()

    def written(self, snapshot: BudgetSnapshot, plan: Plan) -> None:
        """Count nothing."""

    def forget(self, key: Key) -> None:
        """Record that a budget was deleted, or that another replica reconciles it."""
        BUDGET_METRICS.forget(key[1])
        if self._generations.pop(key[1], None) is not None:
            self._changed = True
            self._event.set()

    def used(self, namespace: str) -> None:
        """Record that the usage of a namespace has changed."""
        self._freed.add(namespace)
        self._event.set()

    async def run(self) -> None:
        """Wake jobs until cancelled."""
        while True:
            await self._event.wait()
            self._event.clear()
            self.wake()

    def wake(self) -> None:
        """Queue the jobs that a changed budget may stop or start, and those that got room.

        After a change of usage, these are the jobs that wait for a budget of the namespace, and
        the budget itself. A budget is rarely edited, so all jobs are then queued.
        """
        changed, freed = self._changed, self._freed
        self._changed, self._freed = False, set()
        if changed:
            for key in self.jobs.reconciler.store.own_keys():
                self.jobs.notify(key, FINETUNEBUDGET, 0, True)
        names = frozenset().union(*map(self.budgets.selecting, freed))
        if self.own is not None:
            for name in names:
                self.own.notify(("", name), FINETUNEBUDGET, 0, True)
        for request in self.budgets.waiting() if names and not changed else ():
            if names & request.budgets:
                key = request.namespace, request.name
                self.jobs.notify(key, FINETUNEBUDGET, 0, True)
