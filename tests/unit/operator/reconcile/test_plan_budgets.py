"""Budgets of jobs: what waits and holds nothing, what starts by itself, stops and resumes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing
from tests.support.reconcile.plan_steps import PREPARED, running, stop

from finetune_api.contracts.cost import expected
from finetune_api.v1alpha1.budgets.spec import Approval
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.budgets.accounts import Accounts
from finetune_operator.budgets.admission import Request
from finetune_operator.budgets.amounts import Amount, Bound
from finetune_operator.budgets.balances import Balance
from finetune_operator.budgets.periods import containing
from finetune_operator.types import Snapshot
from finetune_operator.usage.values import NamespaceUsage, ReservationRequest

HOUR = 3600
NEEDED = 2 * HOUR


@dataclass(kw_only=True)
class Budgeted(Cluster):
    """A cluster with a budget of 10 GPU-hours, and records of usage."""

    usage: NamespaceUsage | None = field(default_factory=NamespaceUsage)
    used: float = 0
    """GPU-hours of the budget that are used."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Other values of the budget; with None, there is no budget."""
    ahead: tuple[Request, ...] = ()
    problem: str | None = None
    gate: Callable[[ReservationRequest], bool] = lambda request: True
    granted: list[ReservationRequest] = field(default_factory=list)

    def observe(self, between: Callable[[], None] = lambda: None) -> Snapshot:
        snapshot = super().observe(between)
        return replace(snapshot, accounts=self.accounts())

    def accounts(self) -> Accounts:
        values: dict[str, Any] = {
            "period": containing("Month", self.now),
            "now": self.now,
            "limit": Bound(gpu_seconds=10 * HOUR),
            "used": Amount(gpu_seconds=int(self.used * HOUR)),
            **self.changes,
        }
        return Accounts(
            own=frozenset({"team"}),
            balances={} if self.problem else {"team": Balance(name="team", **values)},
            waiting=self.ahead,
            problem=self.problem,
        )

    def reserve(self, request: ReservationRequest) -> bool:
        if not self.gate(request):
            return False
        self.granted.append(request)
        return super().reserve(request)

    def train_jobs(self) -> list[str]:
        jobs = self.list("Job")
        return [
            each["metadata"]["name"]
            for each in jobs
            if each["metadata"]["labels"]["finetune.dev/stage"] == "train"
            and "deletionTimestamp" not in each["metadata"]
        ]


def prepared(**values: Any) -> Budgeted:
    """Return a cluster whose job has prepared its data and is due to train for two hours."""
    cluster = Budgeted(**values)
    cluster.edit(runPolicy={"maxGpuSeconds": NEEDED})
    cluster.settle()
    PREPARED(cluster)
    cluster.settle()
    return cluster


def condition(cluster: Cluster, type_: str = "Ready") -> Thing:
    return next((dict(each) for each in cluster.status["conditions"] if each["type"] == type_), {})


def test_a_job_that_fits_reserves_before_its_train_job_exists() -> None:
    cluster = prepared()
    assert cluster.train_jobs()
    (request,) = cluster.granted
    assert (request.cap, request.job) == (NEEDED, "demo")
    assert "budget" not in cluster.status


def test_a_job_that_does_not_fit_waits_holds_nothing_and_starts_by_itself() -> None:
    cluster = prepared(used=8.5)
    ready = condition(cluster)
    assert ready["reason"] == Reason.OVER_BUDGET
    assert "The job needs 2 GPU-hours. FineTuneBudget team has 10 GPU-hours" in ready["message"]
    assert condition(cluster, "Suspended")["status"] == "True"
    assert not condition(cluster, "Stalled")
    assert cluster.train_jobs() == []
    assert cluster.granted == []
    waiting = cluster.status["budget"]
    assert waiting["gpuSeconds"] == NEEDED
    assert waiting["revision"] == cluster.status["revisions"][0]["frozen"]["digest"]
    since = waiting["waitingSince"]
    cluster.wait(3600)
    plan = cluster.reconcile()
    assert plan.requeue_after == 600, "the budget wakes it earlier"
    assert cluster.status["budget"]["waitingSince"] == since, "its place in the queue"
    cluster.used = 0  # The next period.
    cluster.settle()
    assert len(cluster.train_jobs()) == 1
    assert len(cluster.granted) == 1
    assert "budget" not in cluster.status


def test_the_reconcile_after_the_period_is_scheduled_for_its_end() -> None:
    cluster = prepared(used=9)
    cluster.now = datetime(2030, 1, 31, 23, 59, 50, tzinfo=UTC)
    plan = cluster.reconcile()
    assert plan.requeue_after == 10


def test_the_end_of_the_period_is_that_of_the_clock_that_charges_usage() -> None:
    """The clock of the operator is ahead: the period has not ended, so nothing is polled."""
    cluster = prepared(used=9)
    now = datetime(2030, 1, 31, 23, 59, 30, tzinfo=UTC)
    cluster.changes = {"now": now, "period": containing("Month", now)}
    cluster.now = datetime(2030, 2, 1, 0, 0, 20, tzinfo=UTC)
    assert cluster.reconcile().requeue_after == 30


def test_without_its_reservation_no_job_starts() -> None:
    """Another job got the last of the budget between the plan and the reservation."""
    cluster = prepared(gate=lambda request: False)
    assert condition(cluster)["reason"] == Reason.RESERVING
    assert cluster.train_jobs() == []
    cluster.gate = lambda request: True
    cluster.settle()
    assert len(cluster.train_jobs()) == 1


def test_a_job_above_the_whole_budget_fails_until_the_budget_is_enlarged() -> None:
    cluster = prepared(changes={"limit": Bound(gpu_seconds=HOUR)})
    assert condition(cluster)["reason"] == Reason.EXCEEDS_BUDGET
    assert condition(cluster, "Finished")["status"] == "True"
    assert condition(cluster, "Stalled")["status"] == "True"
    assert "budget" not in cluster.status
    assert cluster.plan().requeue_after is None
    cluster.changes = {}
    cluster.settle()
    assert len(cluster.train_jobs()) == 1


def test_an_edit_after_the_approval_needs_another_approval() -> None:
    """Security: what was approved is what is trained."""
    above = {"approval_above": Bound(gpu_seconds=HOUR)}
    cluster = prepared(changes=above)
    assert condition(cluster)["reason"] == Reason.APPROVAL_NEEDED
    digest = cluster.status["revisions"][0]["frozen"]["digest"]
    uid = cluster.present_job()["metadata"]["uid"]
    entry = f"{{namespace: ns, name: demo, uid: {uid}, revision: {digest}, maxGpuHours: 2}}"
    assert entry in condition(cluster)["message"]
    approval = Approval(
        namespace="ns", name="demo", uid=uid, revision=digest, max_gpu_hours=NEEDED / HOUR
    )
    cluster.changes = {**above, "approvals": (approval,)}
    cluster.edit(training={"seed": 99})
    cluster.settle()
    PREPARED(cluster)
    cluster.settle()
    assert condition(cluster)["reason"] == Reason.APPROVAL_NEEDED
    assert cluster.train_jobs() == []
    cluster.edit(training=None)
    cluster.settle()
    assert len(cluster.train_jobs()) == 1


def test_a_job_that_names_no_duration_says_what_to_set() -> None:
    cluster = Budgeted()
    cluster.settle()
    PREPARED(cluster)
    cluster.settle()
    ready = condition(cluster)
    assert ready["reason"] == Reason.COST_UNKNOWN
    assert "spec.runPolicy.maxGpuSeconds" in ready["message"]
    assert condition(cluster, "Stalled")["status"] == "True"


@pytest.mark.parametrize("cause", ["unread", "unrecorded"])
def test_a_budget_whose_balance_is_unknown_lets_no_job_start(cause: str) -> None:
    """Security: neither a broken budget nor a chart without records of usage opens the door."""
    cluster = prepared(problem=f"The budget is {cause}.")
    if cause == "unrecorded":
        cluster.usage = None
        cluster.settle()
    assert condition(cluster)["reason"] == Reason.BUDGET_UNAVAILABLE
    assert cluster.train_jobs() == []


def trains(**values: Any) -> Budgeted:
    cluster = prepared(**values)
    running("train")(cluster)
    cluster.settle()
    assert condition(cluster)["reason"] == Reason.TRAINING
    return cluster


def test_a_running_job_finishes_although_the_budget_is_exhausted() -> None:
    cluster = trains()
    cluster.used = 10
    cluster.settle()
    assert condition(cluster)["reason"] == Reason.TRAINING
    assert len(cluster.train_jobs()) == 1


def test_a_limit_raised_during_training_needs_the_approval_before_the_next_attempt() -> None:
    """Security: a small reservation that grows once nobody asks any more."""
    cluster = trains(changes={"approval_above": Bound(gpu_seconds=3 * HOUR)})
    cluster.edit(runPolicy={"maxGpuSeconds": 9 * HOUR})
    cluster.settle()
    assert condition(cluster)["reason"] == Reason.TRAINING
    assert [each.cap for each in cluster.granted] == [NEEDED]
    cluster.edit(suspend=True)
    cluster.settle()
    stop("train")(cluster)
    cluster.edit(suspend=False)
    cluster.settle()
    assert condition(cluster)["reason"] == Reason.APPROVAL_NEEDED
    assert cluster.train_jobs() == []
    assert [each.cap for each in cluster.granted] == [NEEDED]
    cluster.changes = {}
    cluster.settle()
    assert len(cluster.train_jobs()) == 1
    assert [each.cap for each in cluster.granted] == [NEEDED, 9 * HOUR]


def test_a_limit_lowered_during_training_frees_nothing_that_the_present_job_may_use() -> None:
    """Security: the Job keeps the limit with which it was created."""
    cluster = trains()
    cluster.edit(runPolicy={"maxGpuSeconds": 60})
    cluster.settle()
    assert condition(cluster)["reason"] == Reason.TRAINING
    assert [each.cap for each in cluster.granted] == [NEEDED]


@pytest.mark.parametrize(("above", "reserved"), [(3 * HOUR, True), (HOUR, False)])
def test_a_training_older_than_the_records_is_reserved_unless_it_lacks_an_approval(
    above: int, reserved: bool
) -> None:
    cluster = trains()
    cluster.usage = NamespaceUsage()
    cluster.changes = {"approval_above": Bound(gpu_seconds=above)}
    cluster.settle()
    assert condition(cluster)["reason"] == Reason.TRAINING
    assert bool(cluster.usage.reservations) is reserved


def test_attempts_in_steps_need_the_approval_of_the_whole_training() -> None:
    """Security: a limit that is raised after each attempt."""
    cluster = prepared(used=9, changes={"approval_above": Bound(gpu_seconds=3 * HOUR)})
    key = f"train/{cluster.present_job()['metadata']['uid']}/{cluster.status['revision']}"
    cluster.usage = NamespaceUsage(trained={key: HOUR // 2})
    cluster.settle()
    waiting = cluster.status["budget"]
    assert (waiting["gpuSeconds"], waiting["trainedGpuSeconds"]) == (NEEDED - HOUR // 2, HOUR // 2)
    cluster.usage, cluster.used = NamespaceUsage(trained={key: NEEDED}), 0
    cluster.edit(runPolicy={"maxGpuSeconds": 2 * NEEDED})
    cluster.settle()
    assert condition(cluster)["reason"] == Reason.APPROVAL_NEEDED
    assert "needs 4 GPU-hours" in condition(cluster)["message"]
    assert cluster.train_jobs() == []


def test_with_checkpoint_a_running_job_stops_and_resumes_in_the_next_period() -> None:
    cluster = trains(changes={"stops_training": True})
    cluster.used = 10
    cluster.reconcile()
    ready = condition(cluster)
    assert ready["reason"] == Reason.OVER_BUDGET
    assert "resumes from its last checkpoint" in ready["message"]
    assert cluster.train_jobs() == []
    stop("train")(cluster)
    cluster.settle()
    assert cluster.train_jobs() == []
    (stage,) = (
        each for each in cluster.status["revisions"][0]["stages"] if each["stage"] == "train"
    )
    assert (stage["outcome"], stage["reason"]) == ("Stopped", Reason.OVER_BUDGET)
    # The settlement has ended its reservation.
    assert cluster.usage is not None
    cluster.usage = replace(
        cluster.usage, reservations={}, trained={cluster.granted[0].key: HOUR // 2}
    )
    cluster.used = 0
    cluster.settle()
    (job,) = cluster.train_jobs()
    assert job.endswith("-train-2")
    assert len(cluster.granted) == 2


def test_what_a_stopped_training_has_used_is_not_asked_for_again() -> None:
    cluster = prepared(used=8.5)
    key = f"train/{cluster.present_job()['metadata']['uid']}/{cluster.status['revision']}"
    assert cluster.train_jobs() == []
    cluster.usage = NamespaceUsage(trained={key: HOUR})
    cluster.settle()
    assert len(cluster.train_jobs()) == 1


def estimated_and_stopped(trained: int) -> Budgeted:
    """Return a job without a limit, whose training was suspended and resumed. Estimate: 1 h."""
    cluster = Budgeted()
    cluster.settle()
    estimate = {"trainingSeconds": HOUR}
    controllers.run(cluster, "prepare", text=controllers.message("prepare", artifacts=estimate))
    cluster.settle()
    running("train")(cluster)
    cluster.edit(suspend=True)
    cluster.settle()
    stop("train")(cluster)
    cluster.settle()
    cluster.usage = NamespaceUsage(trained={cluster.granted[0].key: trained})
    cluster.edit(suspend=False)
    cluster.settle()
    return cluster


def test_a_job_that_has_used_its_estimate_starts_again_only_with_a_limit() -> None:
    most = expected(HOUR).high
    assert len(estimated_and_stopped(most - 1).train_jobs()) == 1
    cluster = estimated_and_stopped(most)
    ready = condition(cluster)
    assert ready["reason"] == Reason.COST_UNKNOWN
    assert f"has used {most} GPU-seconds" in ready["message"]
    assert cluster.train_jobs() == []
    cluster.edit(runPolicy={"maxGpuSeconds": 3 * HOUR})
    cluster.settle()
    (job,) = cluster.train_jobs()
    assert job.endswith("-train-2")


def test_the_user_can_suspend_a_job_that_waits_and_it_gives_up_its_place() -> None:
    cluster = prepared(used=9)
    cluster.edit(suspend=True)
    cluster.settle()
    assert condition(cluster)["reason"] == Reason.SUSPENDED_BY_USER
    assert "budget" not in cluster.status


def test_an_invalid_edit_gives_up_the_place_in_the_queue() -> None:
    cluster = prepared(used=9)
    assert "budget" in cluster.status
    cluster.edit(serving={"enabled": False, "mode": "adapter"}, merge={"enabled": "maybe"})
    cluster.settle()
    assert condition(cluster)["reason"] == Reason.INVALID_SPEC
    assert "budget" not in cluster.status


def test_only_training_waits() -> None:
    """A model that is trained is merged and served, however exhausted the budget is."""
    cluster = trains()
    controllers.run(cluster, "train")
    cluster.used = 10
    cluster.changes = {"stops_training": True}
    cluster.settle()
    assert condition(cluster)["reason"] == Reason.MERGING


def test_a_stable_build_that_released_its_gpu_serves_again_while_the_budget_is_exhausted() -> None:
    cluster = Budgeted()
    cluster.edit(runPolicy={"maxGpuSeconds": NEEDED}, serving={"rollout": "FreeGPU"})
    controllers.run_all(cluster)
    cluster.edit(training={"seed": 99})
    cluster.settle()
    PREPARED(cluster)
    cluster.changes = {"stops_training": True}
    running("train")(cluster)
    (stable,) = cluster.list("Deployment")
    cluster.used = 10
    cluster.settle()
    (after,) = cluster.list("Deployment")
    assert condition(cluster)["reason"] == Reason.OVER_BUDGET
    assert after["metadata"]["name"] == stable["metadata"]["name"]
    assert after["spec"]["replicas"] == 1
