"""The controller of one of our own kinds: workers take keys from the queue and reconcile them.

The result of a reconcile determines the next one:

=============  ===========================================================================
success        reconcile again after the requested time, if there is one
Conflict       reconcile again at once
Transient      reconcile again after 5 ms, doubling up to 60 s
Terminal       reconcile again after ``delays.REJECTED``; the status reports the error
timeout, bug   like Transient, with metrics of their own
=============  ===========================================================================

An error of one key does not affect the others.
"""

import asyncio
import logging
import random
from dataclasses import dataclass, field
from typing import Generic

from finetune_operator import delays
from finetune_operator.controller.kind import S
from finetune_operator.controller.reconciler import Reconciler
from finetune_operator.kube.errors import Conflict, Terminal, Transient
from finetune_operator.telemetry import logs, metrics
from finetune_operator.types import Key
from finetune_operator.workqueue.fair_queue import Priority
from finetune_operator.workqueue.workqueue import WorkQueue

WORKERS = 16
"""A reconcile mostly waits for the API server, which processes many requests at once."""
TIMEOUT_SECONDS = 30.0
"""Of one reconcile."""
METRICS = "metrics"
"""The changes of a pod's metrics, in place of the kind of an object that has changed."""

logger = logging.getLogger("finetune_operator.controller")


@dataclass(kw_only=True)
class Controller(Generic[S]):
    """Workers that share one queue; ``stop`` ends them when another replica leads."""

    reconciler: Reconciler[S]
    queue: WorkQueue[Key]
    workers: int = WORKERS
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def notify(self, key: Key, kind: str, version: int, urgent: bool) -> None:
        """Queue a key after one of its objects has changed. urgent: see ``Notify``.

        A standby queues nothing: a new leader queues all keys. Objects with the label of an owner
        that does not exist are no work.
        """
        if self.stopped:
            return
        self.reconciler.changed(key, kind, version)
        if kind == self._own:
            self.queue.add(key, self._priority(key))
        elif self.reconciler.knows(key):
            self.queue.add_after(key, delays.after_event(kind, urgent=urgent), Priority.EVENT)

    def notify_later(self, key: Key, kind: str, seconds: float) -> None:
        """Queue a key after a change that can wait: the changes of that time cost one reconcile."""
        if not self.stopped:
            self.reconciler.changed(key, kind, 0)
            self.queue.add_after(key, seconds, Priority.POLL)

    def recheck(self, key: Key) -> None:
        """Queue a key for a reconcile that reads its object from the API server."""
        if not self.stopped:
            self.reconciler.distrust(key, {self._own})
            self.queue.add(key, Priority.POLL)

    def wake(self, key: Key, *, urgent: bool) -> None:
        """Queue a key after one of its pods reported another value.

        urgent: whether a reconcile may wait for the value.
        """
        if not self.stopped:
            self.reconciler.changed(key, METRICS, 0)
            self.queue.add(key, Priority.EVENT if urgent else Priority.POLL)

    @property
    def name(self) -> str:
        """Label of the controller's metrics."""
        return self._own.lower()

    @property
    def _own(self) -> str:
        return self.reconciler.store.watches.own

    def _priority(self, key: Key) -> Priority:
        """Return the priority of an object that has changed, or is reconciled for the first time.

        After a restart, the objects that an earlier operator has reconciled do not delay new ones.
        """
        if self.reconciler.knows(key):
            return Priority.EVENT
        return Priority.NEW if self.reconciler.is_new(key) else Priority.POLL

    async def run(self) -> None:
        """Reconcile all objects, and each one that changes, until ``stop``.

        Raises the error that ended a worker.
        """
        metrics.MAX_WORKERS.labels(self.name).set(self.workers)
        self._tasks = [
            asyncio.create_task(self._work(), name=f"worker-{number}")
            for number in range(self.workers)
        ]
        for key in self.reconciler.store.own_keys():
            self.queue.add(key, self._priority(key))
        try:
            for task in asyncio.as_completed(self._tasks):
                await task
        except asyncio.CancelledError:
            if not self.stopped:
                raise
        finally:
            await self.stop()

    @property
    def stopped(self) -> bool:
        """Whether the workers have ended or are being stopped."""
        return not self._tasks

    @property
    def alive(self) -> bool:
        """Whether no running worker has ended; a standby has none."""
        return not any(task.done() for task in self._tasks)

    async def stop(self) -> None:
        """Stop the workers; a reconcile in progress is cancelled, as in a crash.

        All objects are forgotten: another replica reports their metrics now, and an object that is
        deleted in the meantime would be reported forever.
        """
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.queue.clear()
        self.reconciler.forget_all()

    async def _work(self) -> None:
        while True:
            async with self.queue.take() as key:
                with (
                    logs.reconciling(self._own, *key),
                    metrics.ACTIVE_WORKERS.labels(self.name).track_inprogress(),
                ):
                    with metrics.RECONCILE_SECONDS.labels(self.name).time():
                        result = await self.process(key)
                    metrics.RECONCILE_TOTAL.labels(self.name, result).inc()

    async def process(self, key: Key) -> str:
        """Reconcile an object and schedule its next reconcile; return the result as a label."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                requeue_after = await self.reconciler.reconcile(key)
        except Conflict as error:
            logger.debug("conflict, reconciling again: %s", error)
            self.queue.add(key)
            return "requeue"
        except Terminal as error:
            metrics.RECONCILE_TERMINAL.labels(self.name).inc()
            logger.warning("write rejected: %s", error, extra={"reason": error.reason})
            self.queue.forget(key)
            self.queue.add_after(key, delays.REJECTED)
            return "error"
        except Transient as error:
            seconds = self.queue.retry(key, error.retry_after or 0.0)
            logger.warning("reconcile failed: %s", error, extra={"retry_after": round(seconds, 3)})
        except TimeoutError:
            metrics.RECONCILE_TIMEOUTS.labels(self.name).inc()
            self.queue.retry(key)
            logger.error("reconcile timed out after %.0f s", TIMEOUT_SECONDS)
        except Exception:
            self.queue.retry(key)
            logger.exception("reconcile failed with an unexpected error")
        else:
            self.queue.forget(key)
            if requeue_after is None:
                return "success"
            # A delay is no secret.
            seconds = requeue_after * random.uniform(1 - delays.JITTER, 1 + delays.JITTER)  # noqa: S311
            # Shortly after a change a job may continue, for example on a GPU.
            follows = requeue_after <= delays.FOLLOW_UP
            self.queue.add_after(key, seconds, Priority.EVENT if follows else Priority.POLL)
            return "requeue_after"
        metrics.RECONCILE_ERRORS.labels(self.name).inc()
        return "error"
