"""Laws of budgets in random histories of jobs, usage, edits of budgets, and ends of periods."""

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.budgets.admission import Request, decide
from finetune_operator.budgets.amounts import Amount, Bound
from finetune_operator.budgets.balances import Balance
from finetune_operator.budgets.periods import containing

HOUR = 3600
NAMES = ("a", "b", "company")
SELECTED: tuple[set[str], ...] = ({"a", "company"}, {"b", "company"}, {"a"}, set())


@dataclass
class Training:
    """A job with a reservation."""

    request: Request
    used: int = 0
    """Of its reservation."""


@dataclass
class History:
    """Jobs under three budgets, of which two share namespaces."""

    random: random.Random
    now: datetime = datetime(2026, 11, 2, tzinfo=UTC)
    limits: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    waiting: list[Request] = field(default_factory=list)
    fresh: list[Request] = field(default_factory=list)
    """Jobs that were never reconciled with their training due."""
    running: dict[str, Training] = field(default_factory=dict)
    count: int = 0

    def balances(self) -> dict[str, Balance]:
        period = containing("Week", self.now)
        found = {}
        for name, limit in self.limits.items():
            own = [each for each in self.running.values() if name in each.request.budgets]
            left = sum(max(0, (each.request.gpu_seconds or 0) - each.used) for each in own)
            found[name] = Balance(
                name=name,
                period=period,
                now=self.now,
                limit=Bound(gpu_seconds=limit),
                used=Amount(gpu_seconds=self.used[name]),
                reserved=Amount(gpu_seconds=left),
                running=len(own),
            )
        return found

    def reconcile(self, request: Request) -> bool:
        """Reconcile a job whose training is due; return whether it starts."""
        before = self.balances()
        verdict = decide(request, before, self.waiting)
        if request in self.fresh:
            self.fresh.remove(request)
        if not verdict.admitted:
            if request not in self.waiting and verdict.reason == "OverBudget":
                self.waiting.append(replace(request, waiting_since=self.now))
            return False
        if request in self.waiting:
            self.waiting.remove(request)
        self.running[request.uid] = Training(request)
        for name in request.budgets & before.keys():
            after = self.balances()[name]
            # The law of the limit: whatever happened to the budget before.
            assert after.limit.holds(after.committed), (name, after)
        return True

    def step(self) -> None:
        match self.random.randrange(9):
            case 0 | 1 | 2:
                self.submit()
            case 3 | 4 if self.running:
                training = self.random.choice(list(self.running.values()))
                spent = self.random.randint(0, 3) * HOUR
                training.used += spent
                for name in training.request.budgets:
                    self.used[name] += spent
            case 5 if self.running:
                del self.running[self.random.choice(list(self.running))]
            case 6:
                self.limits[self.random.choice(NAMES)] = self.random.randint(0, 20) * HOUR
            case 7:
                self.advance(self.random.randint(0, 3))
            case 8 if self.waiting:
                # Deleting a waiting job and creating it again gains nothing.
                gone = self.waiting.pop(self.random.randrange(len(self.waiting)))
                self.fresh.append(self.identified(gone))
        for request in self.random.sample([*self.waiting, *self.fresh], k=self.pick()):
            self.reconcile(request)
        self.check_first()

    def pick(self) -> int:
        return self.random.randint(0, len(self.waiting) + len(self.fresh))

    def submit(self) -> None:
        budgets = frozenset(self.random.choice(SELECTED))
        request = Request(
            namespace="team",
            name="",
            uid="",
            revision="",
            gpu_seconds=self.random.randint(1, 12) * HOUR,
            priority=self.random.choice((0, 0, 0, 5)),
            budgets=budgets,
        )
        self.fresh.append(self.identified(request))

    def identified(self, request: Request) -> Request:
        self.count += 1
        name = f"job-{self.count:04}"
        created = f"{self.now:%Y-%m-%dT%H:%M:%S}.{self.count:06}Z"
        return replace(request, name=name, uid=name, created=created, waiting_since=None)

    def advance(self, days: int) -> None:
        before = containing("Week", self.now)
        self.now += timedelta(days=days)
        if containing("Week", self.now) != before:
            self.used = dict.fromkeys(NAMES, 0)

    def check_first(self) -> None:
        """The law of the queue: a job that fits and is the first starts when it is reconciled."""
        balances = self.balances()
        for request in sorted(self.waiting, key=lambda each: each.rank)[:1]:
            own = [balances[name] for name in request.budgets if name in balances]
            if all(each.fits(request.amount(None)) for each in own):
                assert decide(request, balances, self.waiting).admitted

    def drain(self) -> None:
        """End all trainings, and let periods pass; every job that can start must start."""
        for _ in range(len(self.waiting) + len(self.fresh) + 2):
            self.running.clear()
            self.advance(7)
            for request in sorted([*self.waiting, *self.fresh], key=lambda each: each.rank):
                self.reconcile(request)
        balances = self.balances()
        for request in self.waiting:
            own = [balances[name] for name in request.budgets if name in balances]
            fits = all(each.limit.holds(request.amount(None)) for each in own)
            assert not fits, f"{request} never started"


@given(st.integers(0, 10_000))
def test_the_laws_of_budgets(seed: int) -> None:
    history = History(random.Random(seed))
    history.limits = {name: history.random.randint(5, 20) * HOUR for name in NAMES}
    for _ in range(40):
        history.step()
    history.drain()


def test_a_large_job_starts_although_small_ones_keep_coming() -> None:
    history = History(random.Random(1))
    history.limits = {"a": 10 * HOUR}
    small = Request(
        namespace="team",
        name="",
        uid="",
        revision="",
        gpu_seconds=2 * HOUR,
        budgets=frozenset({"a"}),
    )
    for _ in range(3):
        assert history.reconcile(history.identified(small))
    large = history.identified(replace(small, gpu_seconds=9 * HOUR))
    assert not history.reconcile(large)
    for _ in range(21):
        history.advance(1)
        if history.running:
            history.running.popitem()
        candidate = next((each for each in history.waiting if each.uid == large.uid), None)
        if candidate is not None:
            history.reconcile(history.identified(small))
            history.reconcile(candidate)
    assert all(each.uid != large.uid for each in history.waiting)
