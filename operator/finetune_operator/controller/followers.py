"""Wakes the jobs of a profile after the profile has changed.

It observes each reconcile of a profile, in place of metrics: a reconcile follows every change,
however the operator learns of it. Several changes cause one pass over the jobs.
"""

import asyncio
from dataclasses import dataclass, field

from finetune_operator.controller.controller import Controller
from finetune_operator.kube.kinds import FINETUNEPROFILE
from finetune_operator.objects import naming
from finetune_operator.types import Key, Object, Plan, ProfileSnapshot, Snapshot

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
