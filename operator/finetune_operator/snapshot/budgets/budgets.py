"""The FineTuneBudgets: the accounts of a job's snapshot, and of an endpoint's."""

import operator
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_operator.budgets.accounts import Accounts
from finetune_operator.budgets.admission import Request
from finetune_operator.budgets.balances import Balance, balance, limits_serving
from finetune_operator.budgets.parsing import ParsedBudget, parse
from finetune_operator.budgets.periods import Period, containing
from finetune_operator.kube.kinds import FINETUNEENDPOINT, FINETUNEJOB
from finetune_operator.objects import conditions
from finetune_operator.snapshot.budgets.serving_gpus import Holder, ServingGpus
from finetune_operator.snapshot.budgets.surroundings import Surroundings
from finetune_operator.snapshot.budgets.waiting_jobs import WaitingJobs
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.types import Key, Object
from finetune_operator.usage.values import NamespaceUsage, ReservationRequest, Usage, training_key

UNRECORDED = (
    "A FineTuneBudget applies, but the operator records no usage. Ask your cluster administrator "
    "to set the chart value usage.enabled to true, or to delete the budget."
)
GRANTED_FOR = 60.0
"""Seconds for which a grant counts: longer than the reconcile that creates the pods."""


@dataclass(kw_only=True)
class Budgets:
    """The budgets that apply to jobs, with what other jobs have used, reserved and wait for."""

    live: LiveReader
    """With the store of the budgets."""
    jobs: ObjectStore
    endpoints: ObjectStore | None = None
    """Of the FineTuneEndpoints, and of their Deployments."""
    usage: Callable[[], Awaitable[Usage]] | None
    """None if the operator records no usage."""
    surroundings: Surroundings
    waiting: WaitingJobs = field(init=False)
    serving: ServingGpus = field(init=False)
    _parsed: dict[str, tuple[int, ParsedBudget]] = field(default_factory=dict)
    """By name, with the version of the budget."""
    _selecting: dict[str, frozenset[str]] = field(default_factory=dict)
    """Names of the budgets that select a namespace, by its name."""
    _generation: int = 0
    """Of the surroundings from which they were found."""
    monotonic: Callable[[], float] = time.monotonic
    _grants: dict[Holder, tuple[int, float]] = field(default_factory=dict)
    """GPUs that were granted to endpoints, and until when."""
    _balances: dict[str, tuple[list[Any], Balance | None]] = field(default_factory=dict)
    """By name, with the budget and the usages from which they were computed."""

    def __post_init__(self) -> None:
        """Follow the jobs."""
        self.waiting = WaitingJobs(jobs=self.jobs, selecting=self._selected)
        stores = [self.jobs] if self.endpoints is None else [self.jobs, self.endpoints]
        self.serving = ServingGpus(stores)

    async def of(self, job: Object) -> Accounts | None:
        """Return the accounts of a job, None if no budget can matter to it. Raises OperatorError.

        A job that is done needs none until it is edited, unless a budget limits its endpoint. So
        most jobs cost nothing.
        """
        if not self.live.store.own_keys():
            return None
        namespace = job["metadata"]["namespace"]
        if _is_done(job) and not self._limits_serving():
            return None
        await self.surroundings.require(namespace)
        usage = None
        if self.usage is not None and self.selecting(namespace):
            usage = await self.usage()
        # A budget may have been edited or deleted while the usage was read.
        own = self.selecting(namespace)
        if not own:
            return None
        problems = (self._parsed[name][1].problem for name in sorted(own))
        problem = next((text for text in problems if text is not None), None)
        if usage is None:
            return Accounts(own=own, problem=problem or UNRECORDED)
        names, requests = self.waiting.sharing(own)
        own_trainings = training_key(job["metadata"]["uid"], "")
        balances = {name: self.balance(name, usage, but=own_trainings) for name in sorted(names)}
        return Accounts(
            own=own,
            # It holds what would start; the budgets that can be read limit what runs.
            problem=problem,
            balances={name: value for name, value in balances.items() if value is not None},
            waiting=requests,
            priority=self.surroundings.priority(job),
            serving_gpus=self._granted((FINETUNEJOB, namespace, job["metadata"]["name"])),
        )

    async def of_endpoint(self, key: Key) -> Accounts | None:
        """Return the accounts of a FineTuneEndpoint, None if no budget can limit it.

        Raises OperatorError.
        """
        if self.usage is None or not self._limits_serving():
            return None
        await self.surroundings.require(key[0])
        if not self.selecting(key[0]):
            return None
        usage = await self.usage()
        own = self.selecting(key[0])
        balances = {name: self.balance(name, usage) for name in sorted(own)}
        return Accounts(
            own=own,
            balances={name: value for name, value in balances.items() if value is not None},
            serving_gpus=self._granted((FINETUNEENDPOINT, *key)),
        )

    async def list(self) -> None:
        """Read all budgets, so that no job starts before they are known. Raises OperatorError."""
        async for page in self.live.kube.pages(self.live.store.watches.own):
            for budget in page.items:
                self.live.store.put(budget)

    async def run(self) -> None:
        """List the surroundings periodically until cancelled."""
        await self.surroundings.run(self.live.store.own_keys)

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
        # As in the plan: the training of an earlier revision ends before this one starts.
        own_trainings = f"{request.key.rpartition('/')[0]}/"
        balances = [self.balance(name, usage, but=own_trainings) for name in own]
        return all(
            own_balance is not None and own_balance.fits(wish.amount(own_balance.currency))
            for own_balance in balances
        )

    def grant(self, key: Key, gpus: int, kind: str = FINETUNEJOB) -> bool:
        """Grant GPUs to an endpoint, as many as all its budgets have; return whether that is news.

        They count at once, so that no two endpoints get the same one. After ``GRANTED_FOR``, the
        Deployment of the endpoint has them, or they are free again.
        """
        room, owner = gpus, (kind, *key)
        for name in self.selecting(key[0]):
            spec = self._parsed[name][1].spec
            if spec is not None and spec.serving.max_gpus is not None:
                room = min(room, spec.serving.max_gpus - self.serving_gpus(name, but=owner))
        before, now = self._granted(owner), self.monotonic()
        self._grants = {holder: grant for holder, grant in self._grants.items() if grant[1] > now}
        if room > 0:
            self._grants[owner] = room, now + GRANTED_FOR
        else:
            # Otherwise each reconcile would read the same grant again, and ask for another one.
            self._grants.pop(owner, None)
        return self._granted(owner) != before

    def serving_gpus(self, budget: str, *, but: Holder | None = None) -> int:
        """Return the GPUs that the endpoints of a budget have or were granted, but one's."""
        names = [name for name in self.serving.namespaces() if budget in self._selected(name)]
        return sum(
            max(gpus, self._granted(holder))
            for holder, gpus in self.serving.of(names)
            if holder != but
        )

    def _granted(self, holder: Holder) -> int:
        gpus, until = self._grants.get(holder, (0, 0.0))
        return gpus if self.monotonic() < until else 0

    def _limits_serving(self) -> bool:
        """Report whether any budget limits endpoints."""
        specs = (budget.spec for budget in self.parsed().values())
        return any(spec is not None and limits_serving(spec) for spec in specs)

    def parsed(self) -> Mapping[str, ParsedBudget]:
        """Return all budgets by name; each version of a budget is parsed once."""
        store, changed = self.live.store, self._generation != self.surroundings.generation
        self._generation = self.surroundings.generation
        kind, keys = store.watches.own, store.own_keys()
        for key in keys:
            version = store.version(kind, key)
            if self._parsed.get(key[1], (0, None))[0] == version:
                continue
            if (budget := store.owner(key)) is not None:
                _, before = self._parsed.get(key[1], (0, None))
                parsed = parse(key[1], budget["spec"], budget.get("status") or {})
                self._parsed[key[1]] = version, parsed
                changed |= before is None or before.selector != parsed.selector
        for gone in self._parsed.keys() - {name for _, name in keys}:
            del self._parsed[gone]
            changed = True
        if changed:
            self._selecting.clear()
            self.waiting.select()
        return {name: parsed for name, (_, parsed) in self._parsed.items()}

    def selecting(self, namespace: str) -> frozenset[str]:
        """Return the names of the budgets that select a namespace."""
        self.parsed()
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

    def balance(self, name: str, usage: Usage, *, but: str | None = None) -> Balance | None:
        """Return the balance of a budget, None if it cannot be read.

        but: beginning of the keys of reservations that do not count, because they are replaced.
        """
        if name not in self._parsed:
            return None
        budget = self._parsed[name][1]
        if budget.spec is None:
            return None
        period = containing(budget.spec.period, usage.now)
        names = self.namespaces(budget, period, usage)
        usages = [usage.namespaces[namespace] for namespace in names]
        sources = [budget, *usages]
        last_sources, current = self._balances.get(name, ([], None))
        same = len(last_sources) == len(sources) and all(map(operator.is_, last_sources, sources))
        if current is None or not same or current.period != period:
            current = balance(name, budget.spec, usage.now, usages)
            self._balances[name] = sources, current
        current = replace(current, now=usage.now)
        return current if but is None else current.without(usages, but)

    def selects_any(self, budget: ParsedBudget) -> bool:
        """Report whether a budget selects a namespace, with or without usage."""
        return any(
            budget.selects(name, labels) for name, labels in self.surroundings.labels.items()
        )

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


def _is_done(job: Object) -> bool:
    """Report whether a job is done for its present spec. One that has failed may start again."""
    ended, ready = conditions.get(job, "Finished"), conditions.get(job, "Ready")
    return (
        ended.get("status") == ready.get("status") == "True"
        and ended.get("observedGeneration") == job["metadata"]["generation"]
    )
