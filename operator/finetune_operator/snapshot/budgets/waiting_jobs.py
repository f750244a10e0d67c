"""The jobs that wait for budgets, in the order in which they start."""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from operator import attrgetter

from finetune_operator.budgets.admission import Request
from finetune_operator.budgets.parsing import waiting
from finetune_operator.objects import status_view
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.types import Key, Object

_RANK = attrgetter("rank")


@dataclass(kw_only=True)
class WaitingJobs:
    """The requests of the jobs in a store, kept up to date with it.

    A thousand jobs may wait, and each of them is reconciled with all others in its snapshot. So
    each version of a job is parsed once, when it is stored, and the order is kept.
    """

    jobs: ObjectStore
    selecting: Callable[[str], frozenset[str]]
    """Returns the names of the budgets that select a namespace."""
    _requests: dict[Key, Request] = field(default_factory=dict)
    _queue: list[Request] = field(default_factory=list)
    """The same, by rank."""

    def __post_init__(self) -> None:
        """Follow the store."""
        for key in self.jobs.own_keys():
            self._take(key, self.jobs.owner(key))
        self.jobs.on_own_change = self._take

    def sharing(self, budgets: frozenset[str]) -> tuple[frozenset[str], tuple[Request, ...]]:
        """Return the requests that can matter to a job with some budgets, and all their budgets.

        A request matters if it shares a budget with the job, or with a request that matters.
        """
        groups, reached = {request.budgets for request in self._queue}, budgets
        while joined := [group for group in groups if group & reached and not group <= reached]:
            reached = reached.union(*joined)
        return reached, tuple(request for request in self._queue if request.budgets & reached)

    def of(self, budget: str) -> list[Request]:
        """Return the requests for a budget."""
        return [request for request in self._queue if budget in request.budgets]

    def select(self) -> None:
        """Find the budgets of all requests, after budgets or labels of namespaces have changed."""
        for key, request in self._requests.items():
            if (budgets := self.selecting(key[0])) != request.budgets:
                self._requests[key] = replace(request, budgets=budgets)
        self._queue = sorted(self._requests.values(), key=_RANK)

    def _take(self, key: Key, job: Object | None) -> None:
        """Take a version of a job, None if it was deleted."""
        request = None if job is None else self._parsed(key, job)
        before = self._requests.get(key)
        if request == before:
            return
        if before is not None:
            del self._requests[key]
            del self._queue[bisect_left(self._queue, before.rank, key=_RANK)]
        if request is not None:
            self._requests[key] = request
            insort(self._queue, request, key=_RANK)

    def _parsed(self, key: Key, job: Object) -> Request | None:
        """Return the request of a job, None if it does not wait.

        A status that another client has written may be unreadable. The job writes it again when it
        is reconciled, and has no place until then.
        """
        if not (needs := status_view.of_job(job).budget):
            return None
        try:
            return waiting(job["metadata"], needs, self.selecting(key[0]))
        except (KeyError, ValueError):
            return None
