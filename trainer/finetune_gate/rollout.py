"""The loop that brings the table of names to what is wanted.

Each step does the next thing, and reads the wanted set again: load an adapter, prove one, swap the
table, unload what no name needs. A new revision is loaded beside the old one, which answers until
the new one is proved. A restart of vLLM empties the table, and the names return one by one.

An adapter that cannot be used is not tried again before vLLM restarts, unless its files may change:
a copy that failed is tried again after a while. One bad adapter never keeps the others from
answering.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune_api.contracts.endpoint import WantedName
from finetune_gate import adapters, proof, swap
from finetune_gate.adapters import Base
from finetune_gate.engine import Engine, LoadFailed
from finetune_gate.errors import Rejected
from finetune_gate.keys import Caller, may_use
from finetune_gate.names import Table
from finetune_gate.places import Places
from finetune_gate.proof import Subject
from finetune_gate.swap import Adapter, Failure, Identity, identity
from finetune_gate.usage import Usage
from finetune_gate.wanted import Wanted
from finetune_verify.build import Build
from finetune_verify.errors import BaseDiffers, Mismatch, Unavailable

POLL_SECONDS = 0.5
"""Interval of the checks for another start of vLLM, or another wanted set."""
RETRY_SECONDS = 30.0
"""Time after which the files of an adapter that could not be copied are read again."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the endpoint states. claim: mounted read-only. copies: folder that vLLM mounts.

    build: what the verifier must know about the served weights.
    """

    base: Base
    build: Build
    claim: Path
    copies: Path
    max_adapters: int
    max_active: int


class Rollout:
    """The adapters of the running vLLM. ``table``: the names that answer."""

    def __init__(
        self,
        engine: Engine,
        places: Places,
        wanted: Wanted,
        settings: Settings,
        *,
        usage: Usage,
        log: Callable[[str], None],
    ) -> None:
        self.table = Table()
        self.adapters: dict[Identity, Adapter] = {}
        self.failures: dict[Identity, Failure] = {}
        self.loading: Identity | None = None
        self.self_test: str | None = None
        """Result of the self-test of the running vLLM."""
        self._engine, self._places, self._wanted = engine, places, wanted
        self._settings, self._usage, self._log = settings, usage, log
        self._base_is_exact = False
        self._was_ready = False
        self._changed = asyncio.Event()

    def wanted_changed(self) -> None:
        """Apply another wanted set: removed names and keys at once, the rest in the next step."""
        self._swap()
        self._changed.set()

    async def run(self) -> None:
        """Follow vLLM and the wanted set until cancelled."""
        while True:
            boot = self._engine.boot()
            try:
                if boot is not None and await self._engine.healthy():
                    if boot != self.table.boot:
                        await self._begin(boot)
                    if await self._step(boot):
                        continue
            except Unavailable as error:
                self._log(f"vLLM does not answer: {error}")
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), POLL_SECONDS)
            except TimeoutError:
                continue

    async def _begin(self, boot: str) -> None:
        """Forget everything about earlier starts of vLLM."""
        self._log(f"vLLM started (boot {boot}): each name is proved again")
        self.adapters, self.failures = {}, {}
        self.self_test, self._base_is_exact, self._was_ready = None, False, False
        adapters.sweep(self._settings.copies, boots=[boot])
        # Of a gate that ended while vLLM continued. Their files stay: vLLM may read them again.
        for internal in await self._engine.loaded():
            await self._engine.unload(internal)
        self.table = Table(boot=boot)

    async def _step(self, boot: str) -> bool:
        """Do the next thing; report whether there was one."""
        current = self._wanted.current
        if current is None:
            return False
        self._swap()
        self._usage.keep({each.name for each in current.names})
        await self._unload()
        for wanted in current.names:
            if self._can_load(wanted):
                await self._load(wanted, boot)
                return True
        if self.self_test is None and self.adapters:
            await self._test_base()
        if not self._base_is_exact:
            return False
        subject = self._next_to_prove()
        if subject is None:
            return False
        await self._prove(*subject, boot)
        self._swap()
        return True

    def _can_load(self, wanted: WantedName) -> bool:
        key = identity(wanted)
        failure = self.failures.get(key)
        if key in self.adapters or (failure and time.monotonic() < failure.retry_at):
            return False
        return len(self.adapters) < self._settings.max_adapters

    async def _load(self, wanted: WantedName, boot: str) -> None:
        key = identity(wanted)
        # Never used before: nothing that the engine cached under a name or path can be stale.
        internal = f"{wanted.adapter}-{secrets.token_hex(8)}"
        target = self._settings.copies / boot / internal
        self.loading = key
        try:
            if wanted.reference is None:
                raise Rejected("the training recorded no reference, so the adapter is not proved")
            arrived = await asyncio.to_thread(
                adapters.copy, self._settings.claim, wanted, target, self._settings.base
            )
            await self._engine.load(internal, target)
        except Rejected as error:
            self._fail(key, str(error), retry_at=time.monotonic() + RETRY_SECONDS)
        except LoadFailed as error:
            self._fail(key, str(error))
        else:
            self.failures.pop(key, None)
            self.adapters[key] = Adapter(internal=internal, arrived=arrived)
            self._log(f"loaded {internal}")
        finally:
            self.loading = None

    async def _test_base(self) -> None:
        """Compare the base, with the first adapter that can show it."""
        found = None
        try:
            for adapter in self.adapters.values():
                subject = self._subject(adapter)
                found = await proof.self_test(self._engine, subject, self._settings.build)
                if found is not None:
                    break
            self.self_test = found or "the base was not compared: no reference has enough tokens"
            self._base_is_exact = True
        except BaseDiffers as error:
            self.self_test = f"failed: {error}"
        self._log(f"self-test: {self.self_test}")

    def _next_to_prove(self) -> tuple[Identity, Adapter] | None:
        """Return an adapter without a proof, or with one in which it had no neighbour."""
        needed = self._needed()
        for key, adapter in self.adapters.items():
            if key in needed and adapter.proof is None:
                return key, adapter
        for key, adapter in self.adapters.items():
            if key in needed and adapter.alone and self._neighbour(adapter) is not None:
                return key, adapter
        return None

    async def _prove(self, key: Identity, adapter: Adapter, boot: str) -> None:
        subject, began = self._subject(adapter), time.monotonic()
        try:
            found = await proof.prove(
                self._engine, self._places.place, subject, self._settings.build, boot
            )
        except Mismatch as error:
            del self.adapters[key]
            self._fail(key, str(error))
            self._swap()
            await self._engine.unload(adapter.internal)
            return
        except Unavailable:
            # The others come first: they may be proved although this one was not.
            self.adapters[key] = self.adapters.pop(key)
            raise
        adapter.proof, adapter.alone = found, subject.neighbour is None
        seconds = time.monotonic() - began
        self._log(f"{found.outcome} in {seconds:.2f} s: {adapter.internal}: {found.message}")

    def _subject(self, adapter: Adapter) -> Subject:
        assert adapter.arrived.reference is not None
        return Subject(
            internal=adapter.internal,
            reference=adapter.arrived.reference,
            template=adapter.arrived.template,
            neighbour=self._neighbour(adapter),
            predecessor=self._predecessor(adapter),
        )

    def _predecessor(self, adapter: Adapter) -> str | None:
        """Return the adapter that answers under a name for which this one is wanted."""
        current = self._wanted.current
        for wanted in current.names if current is not None else ():
            route = self.table.routes.get(wanted.name)
            if route is not None and self.adapters.get(identity(wanted)) is adapter:
                return route.internal if route.internal != adapter.internal else None
        return None

    def _neighbour(self, adapter: Adapter) -> str | None:
        """Return another loaded adapter, if both fit in one batch."""
        if self._settings.max_active < 2:
            return None
        others = (each.internal for each in self.adapters.values() if each is not adapter)
        return next(others, None)

    def _fail(self, key: Identity, message: str, *, retry_at: float = math.inf) -> None:
        self.failures[key] = Failure(message=message, retry_at=retry_at)
        self._log(f"adapter {key[0][:16]}… is not used: {message}")

    def _needed(self) -> set[Identity]:
        current = self._wanted.current
        return set() if current is None else {identity(each) for each in current.names}

    def _swap(self) -> None:
        """Replace the table at once: new proofs, changed keys, removed names."""
        self.table = swap.swapped(self.table, self._wanted.current, self.adapters)

    async def _unload(self) -> None:
        """Unload the adapters that no name needs, once their requests have ended."""
        needed = self._needed()
        used = {route.internal for route in self.table.routes.values()}
        for key, adapter in list(self.adapters.items()):
            if key in needed or adapter.internal in used:
                continue
            if not self._places.pending(adapter.internal):
                del self.adapters[key]
                await self._engine.unload(adapter.internal)
                self._log(f"unloaded {adapter.internal}")

    def is_wanted(self, name: str, caller: Caller) -> bool:
        """Report whether a name is in the wanted set and for this caller, proved or not."""
        current = self._wanted.current
        return current is not None and any(
            each.name == name and may_use(caller, each.keys) for each in current.names
        )

    @property
    def is_ready(self) -> bool:
        """Whether each name has answered or failed since vLLM started."""
        if self.table.boot is None or self.table.boot != self._engine.boot():
            return False
        current = self._wanted.current
        if not self._was_ready and current is not None:
            self._was_ready = all(self._is_decided(each) for each in current.names)
        return self._was_ready

    def _is_decided(self, wanted: WantedName) -> bool:
        """Report whether a name answers, or whether waiting does not help it."""
        key = identity(wanted)
        adapter = self.adapters.get(key)
        if adapter is not None:
            return adapter.proof is not None
        is_full = len(self.adapters) >= self._settings.max_adapters
        return wanted.name in self.table.routes or key in self.failures or is_full
