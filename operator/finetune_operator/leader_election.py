"""Leadership: of several replicas one works, the others stand by, warm.

A ``coordination.k8s.io/v1`` Lease says whose turn it is. Its holder renews it every
``RENEW_SECONDS`` and counts itself as the holder for ``HELD_SECONDS`` from the moment that the last
successful renewal was *sent*. Whoever stands by watches the Lease and takes it ``DURATION_SECONDS``
after it *saw* the last renewal, or at once where it is given back. Nobody compares clocks of two
machines. Between the two there are five seconds, in which what the old holder sent last arrives.

``remaining`` is the fence of every other write (``transport.Transport.fence``): none is sent where
it is 0, and none is waited for longer. A write that arrives later still finds that the
resourceVersion, the uid or the name that it depends on is another's by then.

``identity`` is the name of the pod: a container that the kubelet starts anew takes its own Lease
back without waiting, since the kubelet starts no second one beside it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime

from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Conflict, OperatorError
from finetune_operator.telemetry import metrics
from finetune_operator.types import Object

DURATION_SECONDS = 15
HELD_SECONDS = 10.0
RENEW_SECONDS = 2.0
REQUEST_SECONDS = 3.0
"""Of one renewal: a connection that stalls leaves time for another."""

logger = logging.getLogger(__name__)


def boottime() -> float:
    """Return seconds that go on while the machine sleeps, which those of ``monotonic`` do not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(kw_only=True)
class LeaderElector:
    """See the module."""

    kube: Kube
    namespace: str
    name: str
    identity: str
    clock: Callable[[], float] = boottime
    _held: Object | None = None
    """As it was last written by us."""
    _held_until: float = 0.0
    _seen: tuple[str, float] = field(default=("", 0.0))
    """The resourceVersion that was seen last, and when it was first."""

    def remaining(self) -> float:
        """Return for how many seconds writes may be under way, 0 where we are not the holder."""
        return max(0.0, self._held_until - self.clock())

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        while True:
            try:
                present = await self.kube.get("Lease", self.namespace, self.name)
                if self._free_in(present) <= 0:
                    await self._write(present)
                    logger.info("leading", extra={"identity": self.identity})
                    return
                assert present is not None
                await self._freed(present)
            except Conflict:
                continue
            except OperatorError as error:
                logger.warning("the lease cannot be read or taken: %s", error)
                await asyncio.sleep(RENEW_SECONDS * random.uniform(0.5, 1.0))

    async def hold(self) -> None:
        """Renew the Lease; return once it is lost."""
        while (left := self.remaining()) > 0:
            await asyncio.sleep(min(RENEW_SECONDS, left))
            try:
                await self._write(self._held)
            except Conflict:
                # Perhaps with a renewal of our own whose answer was lost.
                if not await self._still_ours():
                    break
            except OperatorError as error:
                logger.warning("the lease was not renewed: %s", error)
        self._lost()
        logger.warning("not leading any more", extra={"identity": self.identity})

    async def release(self) -> None:
        """Give the Lease back, so that the next need not wait for its end."""
        held, usable = self._held, self.remaining() > 0
        self._lost()
        if held is None or not usable:
            return
        try:
            await self.kube.replace(
                {**held, "spec": {**held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}},
                seconds=REQUEST_SECONDS,
            )
        except OperatorError as error:
            logger.warning("the lease was not given back: %s", error)

    def _lost(self) -> None:
        self._held, self._held_until = None, 0.0
        metrics.LEADER.labels(self.name).set(0)

    async def _write(self, present: Object | None) -> None:
        """Write our name and the time. Raises Conflict where somebody wrote meanwhile."""
        before = dict((present or {}).get("spec") or {})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + 1,
        }
        if before.get("holderIdentity") == self.identity:
            spec |= {key: before[key] for key in ("acquireTime", "leaseTransitions")}
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        }
        sent = self.clock()
        if present is None:
            written = await self.kube.create(body, fenced=False)
        else:
            body["metadata"] = present["metadata"]
            written = await self.kube.replace(body, seconds=REQUEST_SECONDS)
        self._held, self._held_until = written, sent + HELD_SECONDS
        metrics.LEADER.labels(self.name).set(1)

    async def _still_ours(self) -> bool:
        try:
            present = await self.kube.get("Lease", self.namespace, self.name)
        except OperatorError:
            # Not known; as the holder we may go on until our time is over.
            return True
        if present is None or _holder(present) != self.identity:
            return False
        self._held = present
        return True

    def _free_in(self, present: Object | None) -> float:
        """Return in how many seconds a Lease may be taken, by what was seen of it."""
        if present is None or _holder(present) in ("", self.identity):
            return 0.0
        version = present["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, self.clock())
        duration = float(present["spec"].get("leaseDurationSeconds") or DURATION_SECONDS)
        return self._seen[1] + duration - self.clock()

    async def _freed(self, present: Object) -> None:
        """Watch somebody else's Lease until it may be free, or until the stream ends."""
        version = present["metadata"]["resourceVersion"]
        loop = asyncio.get_running_loop()
        try:
            async with (
                asyncio.timeout(self._free_in(present)) as limit,
                aclosing(
                    self.kube.watch("Lease", self.namespace, self.name, since=version)
                ) as events,
            ):
                async for event in events:
                    if event["type"] not in ("ADDED", "MODIFIED"):
                        return
                    if (left := self._free_in(event["object"])) <= 0:
                        return
                    limit.reschedule(loop.time() + left)
        except TimeoutError:
            return


def _holder(lease: Object) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")
