"""The adapters that vLLM has loaded, and which of them comes next. Nothing here waits.

An adapter with strikes may end vLLM, so the next one is always asked for twice: among those without
strikes, and if there is none, among the others (``failures``).
"""

import time

from finetune_api.contracts.endpoint import WantedName
from finetune_gate.failures import Attempts, Failure, asked_again
from finetune_gate.names import Proof, Table
from finetune_gate.proofs.proof import Subject
from finetune_gate.swap import Adapter, Identity, identity
from finetune_gate.wanted import Wanted


class Loaded:
    """What the gate knows about each adapter of the running vLLM."""

    def __init__(self, wanted: Wanted, *, max_adapters: int, max_active: int) -> None:
        self.adapters: dict[Identity, Adapter] = {}
        self.failures: dict[Identity, Failure] = {}
        self._wanted, self._max_adapters, self._max_active = wanted, max_adapters, max_active

    def begin(self) -> None:
        """Forget everything about earlier starts of vLLM but the strikes."""
        self.adapters = {}
        self.failures = {key: failure for key, failure in self.failures.items() if failure.strikes}

    def add(self, key: Identity, adapter: Adapter) -> None:
        """Record that vLLM has loaded an adapter. Its strikes stay until it is proved."""
        if self._is_faulty(key):
            del self.failures[key]
        self.adapters[key] = adapter

    def prove(self, key: Identity, verdict: Proof, attempts: Attempts, *, alone: bool) -> None:
        """Record a proof: its adapter has no failures. alone: there was no neighbour."""
        self.failures.pop(key, None)
        adapter = self.adapters[key]
        adapter.proof, adapter.attempts, adapter.alone = verdict, attempts, alone

    @property
    def free(self) -> int:
        """Number of further adapters that names can need."""
        return self._max_adapters - len(self._needed() & self.adapters.keys())

    def to_load(self, has_strikes: bool) -> WantedName | None:
        """Return a name whose adapter is loaded next."""
        # An old revision takes no place from the new one, for which vLLM has as many places again.
        if self.free <= 0 or len(self.adapters) >= 2 * self._max_adapters:
            return None
        for wanted in self._names():
            key = identity(wanted)
            if key not in self.adapters and self._is_due(key, has_strikes):
                return wanted
        return None

    def due(self, has_strikes: bool) -> list[tuple[Identity, Adapter]]:
        """Return the needed adapters that may be proved now."""
        needed = self._needed()
        return [
            (key, adapter)
            for key, adapter in self.adapters.items()
            if key in needed and self._is_due(key, has_strikes)
        ]

    def to_prove(self, has_strikes: bool) -> tuple[Identity, Adapter] | None:
        """Return an adapter without a proof, or with one in which it had no neighbour."""
        due = self.due(has_strikes)
        for key, adapter in due:
            if adapter.proof is None:
                return key, adapter
        for key, adapter in due:
            if adapter.alone and self._neighbour(adapter) is not None:
                return key, adapter
        return None

    def to_unload(self) -> list[tuple[Identity, Adapter]]:
        """Return the faulty adapters, and those that no name needs, which may answer still."""
        needed = self._needed()
        return [
            (key, adapter)
            for key, adapter in self.adapters.items()
            if key not in needed or self._is_faulty(key)
        ]

    def is_decided(self, wanted: WantedName) -> bool:
        """Report whether a name has failed, or whether waiting does not help it."""
        key = identity(wanted)
        if key in self.failures:
            return True
        adapter = self.adapters.get(key)
        return adapter.proof is not None if adapter is not None else self.free <= 0

    def attempts(self, key: Identity) -> Attempts:
        """Return the present attempts of the jobs that need an adapter."""
        return frozenset(
            (name.job, name.attempt) for name in self._names() if identity(name) == key
        )

    def forget_earlier_attempts(self, table: Table) -> None:
        """Forget the failures and proofs of earlier attempts, and failures that no name needs.

        A proof with which a name answers counts for later attempts, too.
        """
        now = time.monotonic()
        for key, failure in list(self.failures.items()):
            attempts = self.attempts(key)
            is_present = attempts <= failure.attempts
            kept = failure if is_present else asked_again(failure, attempts, now=now)
            if kept is None or not (attempts or key in self.adapters):
                del self.failures[key]
            else:
                self.failures[key] = kept
        used = {route.internal for route in table.routes.values()}
        for key, adapter in self.adapters.items():
            attempts = self.attempts(key)
            if adapter.proof is None or attempts <= adapter.attempts:
                continue
            if adapter.internal in used:
                adapter.attempts = attempts
            else:
                adapter.proof = None

    def subject(self, adapter: Adapter, table: Table) -> Subject:
        """Return what is proved about an adapter, next to which others."""
        assert adapter.arrived.reference is not None
        return Subject(
            internal=adapter.internal,
            reference=adapter.arrived.reference,
            template=adapter.arrived.template,
            neighbour=self._neighbour(adapter),
            predecessor=self._predecessor(adapter, table),
        )

    def _names(self) -> tuple[WantedName, ...]:
        current = self._wanted.current
        return () if current is None else current.names

    def _needed(self) -> set[Identity]:
        return {identity(name) for name in self._names()}

    def _is_faulty(self, key: Identity) -> bool:
        failure = self.failures.get(key)
        return failure is not None and not failure.strikes

    def _is_due(self, key: Identity, has_strikes: bool) -> bool:
        """Report whether an adapter may be tried now, among those with or without strikes."""
        failure = self.failures.get(key)
        if failure is None:
            return not has_strikes
        return (failure.strikes > 0) == has_strikes and time.monotonic() >= failure.retry_at

    def _neighbour(self, adapter: Adapter) -> str | None:
        """Return another adapter without a failure, if both fit in one batch."""
        if self._max_active < 2:
            return None
        others = (
            other_adapter.internal
            for key, other_adapter in self.adapters.items()
            if other_adapter is not adapter and key not in self.failures
        )
        return next(others, None)

    def _predecessor(self, adapter: Adapter, table: Table) -> str | None:
        """Return the adapter that answers under a name for which this one is wanted."""
        for wanted in self._names():
            route = table.routes.get(wanted.name)
            if route is not None and self.adapters.get(identity(wanted)) is adapter:
                return route.internal if route.internal != adapter.internal else None
        return None
