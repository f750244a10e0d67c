"""The FineTuneBudgets: the accounts of a job's snapshot, and the snapshot of a budget itself."""

import asyncio
import logging
import operator
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.budgets.accounts import Accounts
from finetune_operator.budgets.admission import Request
from finetune_operator.budgets.balances import Balance, balance
from finetune_operator.budgets.parsing import ParsedBudget, parse, waiting
from finetune_operator.budgets.periods import Period, containing
from finetune_operator.kube.errors import OperatorError
from finetune_operator.objects import conditions, status_view
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.surroundings import Surroundings
from finetune_operator.types import BudgetSnapshot, Key, Object, Plan
from finetune_operator.usage.values import NamespaceUsage, ReservationRequest, Usage, training_key

UNRECORDED = (
    "A FineTuneBudget applies, but the operator records no usage. Ask your cluster administrator "
    "to set the chart value usage.enabled to true, or to delete the budget."
)
logger = logging.getLogger("finetune_operator.budgets")

_HELD = frozenset({Reason.EXCEEDS_BUDGET})


@dataclass(kw_only=True)
class Budgets:
    """The budgets that apply to jobs, with what other jobs have used, reserved and wait for."""

    live: LiveReader
    """With the store of the budgets."""
    jobs: ObjectStore
    usage: Callable[[], Awaitable[Usage]] | None
    """None if the operator records no usage."""
    surroundings: Surroundings
    _parsed: dict[str, tuple[int, ParsedBudget]] = field(default_factory=dict)
    """By name, with the version of the budget."""
    _selecting: dict[str, frozenset[str]] = field(default_factory=dict)
    """Names of the budgets that select a namespace, by its name."""
    _generation: int = 0
    """Of the surroundings from which they were found."""
    _balances: dict[str, tuple[list[Any], Balance | None]] = field(default_factory=dict)
    """By name, with the budget and the usages from which they were computed."""
    _waiting: dict[Key, tuple[int, Object | None]] = field(default_factory=dict)
    """The jobs that wait, with their version; None for a job that does not wait."""

    async def of(self, job: Object) -> Accounts | None:
        """Return the accounts of a job, None if no budget can matter to it. Raises OperatorError.

        A job that has ended needs none until it is edited, so most jobs cost nothing.
        """
        if not self.live.store.own_keys() or _has_ended(job):
            return None
        namespace = job["metadata"]["namespace"]
        await self.surroundings.require(namespace)
        own = self.selecting(namespace)
        if not own:
            return None
        usage = None if self.usage is None else await self.usage()
        problems = (self._parsed[name][1].problem for name in sorted(own))
        problem = next((each for each in problems if each is not None), None)
        if usage is None or problem is not None:
            return Accounts(own=own, problem=problem or UNRECORDED)
        requests = tuple(self.waiting())
        names = own.union(*(request.budgets for request in requests))
        own_trainings = training_key(job["metadata"]["uid"], "")
        found = {name: self.balance(name, usage, but=own_trainings) for name in sorted(names)}
        return Accounts(
            own=own,
            balances={name: each for name, each in found.items() if each is not None},
            waiting=requests,
            priority=self.surroundings.priority(job),
        )

    async def list(self) -> None:
        """Read all budgets, so that no job starts before they are known. Raises OperatorError."""
        async for page in self.live.kube.pages(self.live.store.watches.own):
            for each in page.items:
                self.live.store.put(each)

    async def run(self) -> None:
        """List the surroundings periodically until cancelled."""
        while True:
            if self.live.store.own_keys():
                try:
                    await self.surroundings.refresh()
                except OperatorError as error:
                    logger.warning("listing namespaces and PriorityClasses failed: %s", error)
            await asyncio.sleep(delays.SURROUNDINGS)

    def admits(self, request: ReservationRequest, usage: Usage) -> bool:
        """Report whether all budgets of a job still have room, right before it is reserved.

        Another job may have got the room since the job was planned.
        """
        own = self.selecting(request.namespace)
        if not own:
            return True
        present = usage.namespaces.get(request.namespace, NamespaceUsage())
        if request.cap is None:
            return False
        wish = Request(
            namespace=request.namespace,
            name=request.job,
            uid="",
            revision="",
            gpu_seconds=max(1, request.cap - present.trained.get(request.key, 0)),
            price=request.price,
        )
        found = [self.balance(name, usage, but=request.key) for name in own]
        return all(each is not None and each.fits(wish.amount(each.currency)) for each in found)

    def parsed(self) -> Mapping[str, ParsedBudget]:
        """Return all budgets by name; each version of a budget is parsed once."""
        store = self.live.store
        kind, keys = store.watches.own, store.own_keys()
        for key in keys:
            version = store.version(kind, key)
            if self._parsed.get(key[1], (0, None))[0] == version:
                continue
            if (found := store.owner(key)) is not None:
                parsed = parse(key[1], found["spec"], found.get("status") or {})
                self._parsed[key[1]] = version, parsed
                self._selecting.clear()
        for gone in self._parsed.keys() - {name for _, name in keys}:
            del self._parsed[gone]
            self._selecting.clear()
        return {name: parsed for name, (_, parsed) in self._parsed.items()}

    def selecting(self, namespace: str) -> frozenset[str]:
        """Return the names of the budgets that select a namespace."""
        self.parsed()
        if self._generation != self.surroundings.generation:
            self._generation = self.surroundings.generation
            self._selecting.clear()
        return self._selected(namespace)

    def _selected(self, namespace: str) -> frozenset[str]:
        """Return the same as the last call of ``selecting`` knew the budgets."""
        if namespace not in self._selecting:
            labels = self.surroundings.labels.get(namespace)
            self._selecting[namespace] = frozenset(
                name
                for name, (_, budget) in self._parsed.items()
                if budget.selects(namespace, labels)
            )
        return self._selecting[namespace]

    def waiting(self) -> Iterable[Request]:
        """Yield the jobs that wait for a budget; each version of a job is decoded once."""
        kind, keys = self.jobs.watches.own, self.jobs.own_keys()
        for key in keys:
            version = self.jobs.version(kind, key)
            if self._waiting.get(key, (0, None))[0] != version:
                job = self.jobs.owner(key)
                waits = job is not None and bool(status_view.of_job(job).budget)
                self._waiting[key] = version, job if waits else None
        for gone in self._waiting.keys() - set(keys):
            del self._waiting[gone]
        for key, (_, job) in self._waiting.items():
            if job is not None:
                needs = status_view.of_job(job).budget
                yield waiting(job["metadata"], needs, self._selected(key[0]))

    def balance(self, name: str, usage: Usage, *, but: str | None = None) -> Balance | None:
        """Return the balance of a budget, None if it cannot be read.

        but: beginning of the keys of reservations that do not count, because they are replaced.
        """
        budget = self._parsed[name][1]
        if budget.spec is None:
            return None
        period = containing(budget.spec.period, usage.now)
        names = self.namespaces(budget, period, usage)
        usages = [usage.namespaces[each] for each in names]
        sources = [budget, *usages]
        known, found = self._balances.get(name, ([], None))
        same = len(known) == len(sources) and all(map(operator.is_, known, sources))
        if found is None or not same or found.period != period:
            found = balance(name, budget.spec, period, usages)
            self._balances[name] = sources, found
        return found if but is None else found.without(usages, but)

    def namespaces(self, budget: ParsedBudget, period: Period, usage: Usage) -> tuple[str, ...]:
        """Return the namespaces with usage that count for a budget.

        A deleted one has no labels any more; the budget counts it until the period ends.
        """
        existing = self.surroundings.labels
        same = budget.period_start == conditions.timestamp(period.start)
        return tuple(
            name
            for name in sorted(usage.namespaces)
            if budget.name in self._selected(name)
            or (same and name not in existing and name in budget.counted)
        )


@dataclass(frozen=True, kw_only=True)
class BudgetReader:
    """Takes the snapshot of a budget from the store."""

    live: LiveReader
    budgets: Budgets

    async def read(
        self,
        key: Key,
        *,
        live: Set[str] = frozenset(),
        names: Iterable[tuple[str, str]] = (),
        created: Set[str] = frozenset(),
    ) -> BudgetSnapshot | None:
        """Return the snapshot of a budget, None if it does not exist. Raises OperatorError."""
        await self.live.refresh(key, live)
        if self.budgets.surroundings.generation == 0:
            await self.budgets.surroundings.refresh()
        body = self.live.store.owner(key)
        if body is None:
            return None
        usage = None if self.budgets.usage is None else await self.budgets.usage()
        parsed = self.budgets.parsed()[key[1]]
        if parsed.spec is None or usage is None:
            return BudgetSnapshot(
                budget=body,
                problem=parsed.problem or UNRECORDED,
                unrecorded=parsed.problem is None,
            )
        period = containing(parsed.spec.period, usage.now)
        return BudgetSnapshot(
            budget=body,
            balance=self.budgets.balance(key[1], usage),
            namespaces=self.budgets.namespaces(parsed, period, usage),
            waiting=sum(key[1] in each.budgets for each in self.budgets.waiting()),
        )

    async def complete(self, key: Key, plan: Plan) -> bool:
        """Read nothing more: a plan depends on the snapshot alone."""
        return False

    def wait(self, key: Key, snapshot: BudgetSnapshot, plan: Plan) -> float:
        """Return 0: no plan waits for information."""
        return 0.0

    def forget(self, key: Key) -> None:
        """Forget nothing: the store alone remembers budgets."""


def _has_ended(job: Object) -> bool:
    """Report whether a job has ended for its present spec, for another reason than a budget."""
    ended = conditions.get(job, "Finished")
    return (
        ended.get("status") == "True"
        and ended.get("observedGeneration") == job["metadata"]["generation"]
        and ended.get("reason") not in _HELD
    )
