"""The loop that brings the table of names to what is wanted.

Each step does the next thing, and reads the wanted set again: load an adapter, prove one, swap the
table, unload what no name needs. A new revision is loaded beside the old one, which answers until
the new one is proved. A restart of vLLM empties the table, and the names return one by one.

An adapter that cannot be used is not tried again before vLLM restarts, unless its files may change:
a copy that failed is tried again after a while. If vLLM fails instead of answering, the adapter
comes after the others (``failures``). One bad adapter never keeps the others from answering.
"""

import asyncio
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune_api.contracts.endpoint import WantedName
from finetune_api.v1alpha1.endpoints.names import base_name
from finetune_gate import swap
from finetune_gate.adapters import copy as adapters
from finetune_gate.adapters import no_change
from finetune_gate.adapters.copy import Base
from finetune_gate.engine import Engine, LoadFailed
from finetune_gate.errors import NotCopied, Rejected
from finetune_gate.failures import Attempts, Failure, struck
from finetune_gate.keys import Caller, may_use
from finetune_gate.loaded import Loaded
from finetune_gate.names import Table
from finetune_gate.proofs import proof
from finetune_gate.queue.places import Places
from finetune_gate.swap import Adapter, Identity, identity
from finetune_gate.usage import Usage
from finetune_gate.wanted import Wanted
from finetune_verify.build import Build
from finetune_verify.errors import BaseDiffers, Mismatch, Unavailable

POLL_SECONDS = 0.5
"""Interval of the checks for another start of vLLM, or another wanted set."""
RETRY_SECONDS = 30.0
"""Time after which the files of an adapter that could not be copied are read again."""


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
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
        settings: EndpointSettings,
        *,
        usage: Usage,
        log: Callable[[str], None],
    ) -> None:
        self.table = Table()
        self.loaded = Loaded(
            wanted, max_adapters=settings.max_adapters, max_active=settings.max_active
        )
        self.loading: Identity | None = None
        self.self_test: str | None = None
        """Result of the self-test of the running vLLM."""
        self.base_is_exact = False
        """Whether it has not failed; otherwise, no adapter is proved."""
        self._engine, self._places, self._wanted = engine, places, wanted
        self._settings, self._usage, self._log = settings, usage, log
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
                self._log(f"no result, so another attempt follows: {error}")
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), POLL_SECONDS)
            except TimeoutError:
                continue

    async def _begin(self, boot: str) -> None:
        """Forget everything about earlier starts of vLLM but the strikes of adapters."""
        self._log(f"vLLM started (boot {boot}): each name is proved again")
        self.loaded.begin()
        self.self_test, self.base_is_exact, self._was_ready = None, False, False
        adapters.sweep(self._settings.copies, boots=[boot])
        # Of a gate that ended while vLLM continued. Their files stay: vLLM may read them again.
        for internal in await self._engine.loaded():
            await self._engine.unload(internal)
        try:
            await no_change.load(self._engine, self._settings.copies / boot, self._settings.base)
        except LoadFailed as error:
            self.self_test = f"failed: the adapter that changes nothing is not loaded: {error}"
            self._log(f"self-test: {self.self_test}")
        self.table = Table(boot=boot)

    async def _step(self, boot: str) -> bool:
        """Do the next thing; report whether there was one."""
        current = self._wanted.current
        if current is None:
            return False
        self._swap()
        names = {wanted_name.name for wanted_name in current.names}
        self._usage.keep(names | {base_name(name) for name in names})
        await self._unload()
        # One with strikes may end vLLM, so all others answer first.
        for has_strikes in (False, True):
            wanted = self.loaded.to_load(has_strikes)
            if wanted is not None:
                await self._load(wanted, boot)
                return True
            if self.self_test is None and await self._test_base(has_strikes, boot):
                return True
            subject = self.loaded.to_prove(has_strikes) if self.base_is_exact else None
            if subject is not None:
                await self._prove(*subject, boot)
                return True
        return False

    async def _load(self, wanted: WantedName, boot: str) -> None:
        key = identity(wanted)
        attempts = self.loaded.attempts(key)
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
            try:
                await self._engine.load(internal, target)
            except (LoadFailed, Unavailable):
                await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
                raise
        except Rejected as error:
            failure = Failure(
                message=str(error),
                attempts=attempts,
                retry_at=time.monotonic() + RETRY_SECONDS,
                may_pass=isinstance(error, NotCopied),
            )
            self._fail(key, failure)
        except LoadFailed as error:
            self._fail(key, Failure(message=str(error), attempts=attempts))
        except Unavailable as error:
            await self._strike(key, attempts, error, boot)
        else:
            self.loaded.add(key, Adapter(internal=internal, arrived=arrived))
            blocks = arrived.different_blocks
            scales = "" if blocks is None else f"; {blocks} blocks of the base have another scale"
            self._log(f"loaded {internal}{scales}")
        finally:
            self.loading = None

    async def _test_base(self, has_strikes: bool, boot: str) -> bool:
        """Compare the base, with the first adapter that can show it; report whether one exists."""
        due = self.loaded.due(has_strikes)
        agreement = None
        try:
            for key, adapter in due:
                attempts = self.loaded.attempts(key)
                subject = self.loaded.subject(adapter, self.table)
                agreement = await proof.self_test(self._engine, subject, self._settings.build)
                if agreement is not None:
                    break
        except BaseDiffers as error:
            self.self_test = f"failed: {error}"
        except Unavailable as error:
            await self._strike(key, attempts, error, boot)
            return True
        else:
            if not due:
                return False
            self.self_test = (
                agreement or "the base was not compared: no reference has enough tokens"
            )
            self.base_is_exact = True
        self._log(f"self-test: {self.self_test}")
        return True

    async def _prove(self, key: Identity, adapter: Adapter, boot: str) -> None:
        subject, began = self.loaded.subject(adapter, self.table), time.monotonic()
        attempts = self.loaded.attempts(key)
        try:
            verdict = await proof.prove(
                self._engine, self._places.place, subject, self._settings.build, boot
            )
        except Mismatch as error:
            adapter.proof = None
            self._fail(key, Failure(message=str(error), attempts=attempts))
        except Unavailable as error:
            await self._strike(key, attempts, error, boot)
        else:
            self.loaded.prove(key, verdict, attempts, alone=subject.neighbour is None)
            seconds = time.monotonic() - began
            self._log(
                f"{verdict.outcome} in {seconds:.2f} s: {adapter.internal}: {verdict.message}"
            )
        self._swap()

    async def _strike(
        self, key: Identity, attempts: Attempts, error: Unavailable, boot: str
    ) -> None:
        """Record an attempt without a result."""
        has_ended = self._engine.boot() != boot or not await self._engine.healthy()
        before, now = self.loaded.failures.get(key), time.monotonic()
        failure = struck(before, str(error), attempts=attempts, has_ended=has_ended, now=now)
        self._fail(key, failure)

    def _fail(self, key: Identity, failure: Failure) -> None:
        self.loaded.failures[key] = failure
        self._log(f"adapter {key[0][:16]}… is not used: {failure.message}")

    def _swap(self) -> None:
        """Replace the table at once: new proofs, changed keys, removed names."""
        self.table = swap.swapped(
            self.table, self._wanted.current, self.loaded.adapters, self._engine.base
        )

    async def _unload(self) -> None:
        """Unload faulty adapters, and those that no name needs, once their requests have ended."""
        for key, adapter in self.loaded.to_unload():
            used = {route.internal for route in self.table.routes.values()}
            if adapter.internal in used or self._places.pending(adapter.internal):
                continue
            # A name that needs it from now on must not answer with it.
            adapter.proof = None
            try:
                await self._engine.unload(adapter.internal)
            except Unavailable as error:
                self._log(f"{adapter.internal} is not unloaded yet: {error}")
                continue
            del self.loaded.adapters[key]
            self._log(f"unloaded {adapter.internal}")
        self.loaded.forget_earlier_attempts(self.table)

    def is_wanted(self, name: str, caller: Caller) -> bool:
        """Report whether a name is wanted and for this caller, proved or not."""
        current = self._wanted.current
        wanted = None if current is None else swap.wanted_for(name, current, self.table)
        return wanted is not None and may_use(caller, wanted.keys)

    def is_known(self, caller: Caller) -> bool:
        """Report whether any name is in the wanted set and for this caller."""
        names = () if self._wanted.current is None else self._wanted.current.names
        return any(may_use(caller, wanted_name.keys) for wanted_name in names)

    def has_key(self, caller: Caller) -> bool:
        """Report whether a caller has a key of any name in the wanted set."""
        names = () if self._wanted.current is None else self._wanted.current.names
        return any(caller in (wanted_name.keys or ()) for wanted_name in names)

    @property
    def is_ready(self) -> bool:
        """Whether a name answers since vLLM started, or whether all have failed.

        The names return one by one: a pod that is not ready gets requests for none of them.
        """
        if self.table.boot is None or self.table.boot != self._engine.boot():
            return False
        current = self._wanted.current
        if not self._was_ready and current is not None:
            answers = any(wanted_name.name in self.table.routes for wanted_name in current.names)
            self._was_ready = answers or all(map(self.loaded.is_decided, current.names))
        return self._was_ready
