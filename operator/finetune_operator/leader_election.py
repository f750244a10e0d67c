"""Leader election: one replica is the leader, the others are hot standbys.

The leader holds a ``coordination.k8s.io/v1`` Lease. It renews it every ``RENEW_SECONDS``, and
counts itself as the leader for ``HELD_SECONDS`` from the moment it *sent* the last successful
renewal. A standby watches the Lease and acquires it ``DURATION_SECONDS`` after it *observed* the
last renewal, or at once if the Lease is released. Clocks of two machines are never compared. The
five seconds in between cover requests that the old leader sent last.

``remaining`` is the fence of every other write (``transport.Transport.fence``): a write is not sent
if it is 0, and has no longer timeout. A write that is delayed beyond that fails on its
precondition: the new leader has changed the resourceVersion, the uid or the name.

The annotation ``finetune.dev/note`` of the Lease carries a text from one leader to the next.

``identity`` is the name of the pod. A restarted container acquires the Lease of its pod without
waiting, since the kubelet never runs the same container twice at once.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Conflict, OperatorError
from finetune_operator.objects import naming
from finetune_operator.telemetry import metrics
from finetune_operator.types import Object

DURATION_SECONDS = 15
HELD_SECONDS = 10.0
RENEW_SECONDS = 2.0
REQUEST_SECONDS = 3.0
"""Timeout of a renewal: after a stalled connection there is time for another attempt."""

logger = logging.getLogger("finetune_operator.leader_election")


def boottime() -> float:
    """Return a monotonic time in seconds that includes the time in which the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(kw_only=True)
class LeaderElector:
    """This replica's part in the election."""

    kube: Kube
    namespace: str
    name: str
    identity: str
    clock: Callable[[], float] = boottime
    note: Callable[[], str] = str
    """Returns the text for the next leader, which each renewal writes; empty for none."""
    inherited: str = ""
    """The text of the last leader, empty without one."""
    _held: Object | None = None
    """The Lease as this replica wrote it last."""
    _held_until: float = -math.inf
    _observed: tuple[str, float] = field(default=("", -math.inf))
    """The resourceVersion that was observed last, and the time when it was observed first."""

    def remaining(self) -> float:
        """Return for how many more seconds this replica may write; 0 if it is not the leader."""
        return max(0.0, self._held_until - self.clock())

    async def acquire(self) -> None:
        """Wait until this replica is the leader."""
        while True:
            try:
                lease = await self.kube.get("Lease", self.namespace, self.name)
                if self._available_in(lease) <= 0:
                    self.inherited = naming.note(lease) if lease is not None else ""
                    await self._write(lease)
                    logger.info("became the leader", extra={"identity": self.identity})
                    return
                assert lease is not None
                await self._wait_until_available(lease)
            except Conflict:
                continue
            except OperatorError as error:
                logger.warning("failed to read or acquire the Lease: %s", error)
                # A delay is no secret.
                await asyncio.sleep(RENEW_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311

    async def hold(self) -> None:
        """Renew the Lease; return once it is lost."""
        while (seconds := self.remaining()) > 0:
            await asyncio.sleep(min(RENEW_SECONDS, seconds))
            try:
                await self._write(self._held)
            except Conflict:
                # The conflict may be with our own renewal, if its response was lost.
                if not await self._is_still_held():
                    break
            except OperatorError as error:
                logger.warning("failed to renew the Lease: %s", error)
        self._lose()
        logger.warning("no longer the leader", extra={"identity": self.identity})

    async def release(self) -> None:
        """Release the Lease, so that a standby need not wait for its expiration."""
        held, usable = self._held, self.remaining() > 0
        self._lose()
        if held is None or not usable:
            return
        try:
            await self.kube.replace(
                {
                    **held,
                    "metadata": self._metadata(held),
                    "spec": {**held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1},
                },
                seconds=REQUEST_SECONDS,
            )
        except OperatorError as error:
            logger.warning("failed to release the Lease: %s", error)

    def _lose(self) -> None:
        self._held, self._held_until = None, -math.inf
        metrics.LEADER.labels(self.name).set(0)

    async def _write(self, lease: Object | None) -> None:
        """Write identity and time into the Lease. Raises Conflict if it changed since."""
        previous = dict((lease or {}).get("spec") or {})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": int(previous.get("leaseTransitions") or 0) + 1,
        }
        if previous.get("holderIdentity") == self.identity:
            spec |= {key: previous[key] for key in ("acquireTime", "leaseTransitions")}
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        }
        sent = self.clock()
        if lease is None:
            written = await self.kube.create(body, fenced=False)
        else:
            body["metadata"] = self._metadata(lease)
            written = await self.kube.replace(body, seconds=REQUEST_SECONDS)
        self._held, self._held_until = written, sent + HELD_SECONDS
        metrics.LEADER.labels(self.name).set(1)

    def _metadata(self, lease: Object) -> dict[str, Any]:
        """Return the metadata of the Lease with the present note."""
        metadata = {key: value for key, value in lease["metadata"].items() if key != "annotations"}
        annotations = naming.noted(self.note())
        return {**metadata, "annotations": annotations} if annotations else metadata

    async def _is_still_held(self) -> bool:
        try:
            lease = await self.kube.get("Lease", self.namespace, self.name)
        except OperatorError:
            # Unknown: this replica remains the leader until its time has expired.
            return True
        if lease is None or _holder(lease) != self.identity:
            return False
        self._held = lease
        return True

    def _available_in(self, lease: Object | None) -> float:
        """Return the seconds until the Lease may be acquired, as far as it was observed."""
        if lease is None or _holder(lease) in ("", self.identity):
            return 0.0
        version = lease["metadata"]["resourceVersion"]
        if self._observed[0] != version:
            self._observed = (version, self.clock())
        duration = float(lease["spec"].get("leaseDurationSeconds") or DURATION_SECONDS)
        return self._observed[1] + duration - self.clock()

    async def _wait_until_available(self, lease: Object) -> None:
        """Watch the Lease of another replica until it may be available, or the stream ends."""
        version = lease["metadata"]["resourceVersion"]
        loop = asyncio.get_running_loop()
        try:
            async with (
                asyncio.timeout(self._available_in(lease)) as timeout,
                aclosing(
                    self.kube.watch("Lease", self.namespace, self.name, since=version)
                ) as events,
            ):
                async for event in events:
                    if event["type"] not in ("ADDED", "MODIFIED"):
                        return
                    # If the Lease is available already, this ends the wait at once.
                    timeout.reschedule(loop.time() + self._available_in(event["object"]))
        except TimeoutError:
            return


def _holder(lease: Object) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")
