"""Laws of budgets in random histories of several jobs, with the planner and its crashes."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Crash, Thing
from tests.support.reconcile.plan_steps import PREPARED

from finetune_api.v1alpha1.budgets.spec import FineTuneBudgetSpec
from finetune_operator.budgets.accounts import Accounts
from finetune_operator.budgets.balances import Balance, balance
from finetune_operator.budgets.parsing import waiting
from finetune_operator.types import Snapshot
from finetune_operator.usage.values import DayUse, NamespaceUsage, Reservation, ReservationRequest

HOUR = 3600
MARKED = "finetune.dev/stage"
START = datetime(2030, 1, 7, tzinfo=UTC)


@dataclass
class Team:
    """Jobs of one namespace under one budget, whose usage is recorded as the recorder does."""

    random: random.Random
    spec: Thing = field(default_factory=dict)
    jobs: "list[Job]" = field(default_factory=list)
    days: dict[date, int] = field(default_factory=dict)
    """GPU-seconds."""
    reservations: dict[str, Reservation] = field(default_factory=dict)
    now: datetime = START

    def usage(self) -> NamespaceUsage:
        days: Mapping[Any, DayUse] = {
            (day, "training"): DayUse(gpu_seconds=seconds) for day, seconds in self.days.items()
        }
        return NamespaceUsage(days=days, reservations=dict(self.reservations))

    def balance(self) -> Balance:
        spec = FineTuneBudgetSpec.model_validate(self.spec, by_name=False)
        return balance("team", spec, self.now, [self.usage()])

    def settle(self) -> None:
        """End the reservations of trainings that are not under way."""
        for key, each in list(self.reservations.items()):
            job = next((job for job in self.jobs if job.key.startswith(key)), None)
            if job is None or not job.is_under_way():
                del self.reservations[key]
            else:
                self.reservations[key] = each

    def advance(self, days: int) -> None:
        self.now += timedelta(days=days)
        for job in self.jobs:
            job.now = self.now

    def budget(self, hours: int, **values: Any) -> None:
        self.spec = {
            "namespaceSelector": {},
            "period": "Week",
            "training": {"gpuHours": hours},
            **values,
        }


@dataclass(kw_only=True)
class Job(Cluster):
    """A job of the team."""

    team: Team
    hours: int

    def observe(self, between: Callable[[], None] = lambda: None) -> Snapshot:
        others = (job for job in self.team.jobs if job is not self and job.status.get("budget"))
        own = frozenset({"team"})
        usage = self.team.usage()
        found = self.team.balance().without([usage], f"train/{self.uid}/")
        accounts = Accounts(
            own=own,
            balances={"team": found},
            waiting=tuple(
                waiting(job.present_job()["metadata"], job.status["budget"], own) for job in others
            ),
        )
        return replace(super().observe(between), accounts=accounts, usage=usage)

    @property
    def uid(self) -> str:
        return str(self.present_job()["metadata"]["uid"])

    @property
    def key(self) -> str:
        return f"train/{self.uid}/{self.status.get('revision')}"

    def reserve(self, request: ReservationRequest) -> bool:
        """Record a reservation if it fits. The law of the limit holds whatever happened before."""
        assert request.cap is not None
        before = self.team.balance().without([self.team.usage()], request.key)
        after = before.used.gpu_seconds + before.reserved.gpu_seconds + request.cap
        limit = before.limit.gpu_seconds
        assert limit is not None
        if after > limit:
            return False
        made = Reservation(**vars(request), used=0)
        self.team.reservations[request.key] = made
        return True

    def add(self, thing: Mapping[str, Any]) -> Thing:
        """Create an object. The law of the reservation: a train Job comes after it."""
        if thing["metadata"].get("labels", {}).get(MARKED) == "train" and thing["kind"] == "Job":
            assert self.key in self.team.reservations, self.status
        return super().add(thing)

    def is_under_way(self) -> bool:
        stages = (self.status.get("revisions") or [{}])[-1].get("stages", [])
        return any(
            each["stage"] == "train" and each["outcome"] in ("Starting", "Running")
            for each in stages
        )

    def train(self, hours: int) -> None:
        """Use GPU time, and end the training if that is all."""
        held = self.team.reservations.get(self.key)
        if held is None or not self.is_under_way():
            return
        used = min(hours * HOUR, held.remaining)
        day = self.team.now.date()
        self.team.days[day] = self.team.days.get(day, 0) + used
        self.team.reservations[self.key] = replace(held, used=held.used + used)

    def work(self, crash: int | None = None) -> None:
        try:
            self.reconcile(die_before=crash)
        except Crash:
            return
        controllers.collect(self)

    @property
    def reason(self) -> str:
        found = [each for each in self.status.get("conditions", ()) if each["type"] == "Ready"]
        return str(found[0]["reason"]) if found else ""


def submitted(team: Team, number: int) -> Job:
    hours = team.random.randint(1, 9)
    job = Job(team=team, hours=hours, name=f"job-{number}")
    job.now = team.now + timedelta(seconds=number)
    job.present_job()["metadata"]["uid"] = f"uid-of-job-{number}"
    job.edit(runPolicy={"maxGpuSeconds": hours * HOUR}, serving={"enabled": False})
    job.settle()
    PREPARED(job)
    team.jobs.append(job)
    return job


def finish(job: Job) -> None:
    """Complete the training of a job if its pod runs or may run."""
    job.work()
    job.work()
    if job.reason == "Training":
        controllers.run(job, "train")
        job.work()
        job.work()


@pytest.mark.parametrize("seed", range(6))
def test_the_laws_of_budgets_with_the_planner(seed: int) -> None:
    team = Team(random.Random(seed))
    chance = team.random
    team.budget(12)
    for number in range(5):
        submitted(team, number)
    for _ in range(50):
        job = chance.choice(team.jobs)
        match chance.randrange(8):
            case 0 | 1 | 2:
                job.work(crash=chance.choice((None, None, 0, 1, 2)))
            case 3:
                job.train(chance.randint(0, 3))
            case 4:
                finish(job)
            case 5:
                team.advance(chance.randint(0, 4))
            case 6:
                policy = chance.choice(("Finish", "Checkpoint"))
                team.budget(chance.randint(0, 14), onExhausted={"training": policy})
            case 7:
                team.settle()
    # In the end, every job trains: the budget is larger than each of them.
    team.budget(9)
    for _ in range(len(team.jobs) + 1):
        team.advance(7)
        for job in team.jobs:
            finish(job)
            team.settle()
    trained = {job.name: job.reason for job in team.jobs}
    assert not {"OverBudget", "ExceedsBudget", "Training", "Reserving"} & {*trained.values()}, (
        trained
    )
