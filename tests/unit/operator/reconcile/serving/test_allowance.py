"""Budgets of endpoints: which pods start, which ones are stopped, and what a job reports."""

from dataclasses import replace
from typing import Any

import pytest
from tests.fakes import controllers
from tests.support.reconcile.plan_steps import MERGED, PREPARED, TRAINED, running
from tests.support.reconcile.serving_steps import reason, replicas, serves
from tests.unit.operator.reconcile.serving.test_shared_mode import SHARED, endpoint, report
from tests.unit.operator.reconcile.test_plan_budgets import HOUR, Budgeted, condition

from finetune_operator import delays
from finetune_operator.budgets.accounts import Accounts
from finetune_operator.budgets.amounts import UNLIMITED, Amount, Bound
from finetune_operator.budgets.balances import ServingBalance
from finetune_operator.reconcile.plan import plan

LIMIT = Bound(gpu_seconds=100 * HOUR)
EXHAUSTED: dict[str, Any] = {"used": Amount(gpu_seconds=100 * HOUR)}


class Limited(Budgeted):
    """A cluster whose budget limits endpoints. ``room``: GPUs that other endpoints leave."""

    room = 9
    granted_gpus = 0

    def limit(self, **values: Any) -> None:
        self.changes = {"serving": ServingBalance(**{"limit": LIMIT, **values})}

    def accounts(self) -> Accounts:
        return replace(super().accounts(), serving_gpus=self.granted_gpus)

    def settle(self, limit: int = 8) -> Any:
        """Reconcile, with a grant of what is planned."""
        for _ in range(limit):
            wanted = plan(self.observe(), now=self.now).serving_gpus
            if wanted is None or min(wanted, self.room) == self.granted_gpus:
                return super().settle(limit)
            assert wanted > self.granted_gpus
            self.granted_gpus = min(wanted, self.room)
        raise AssertionError("always another grant")


def trained(**limits: Any) -> Limited:
    """Return a cluster whose model is complete, with limits of its endpoint."""
    cluster = Limited()
    cluster.edit(runPolicy={"maxGpuSeconds": HOUR}, storage={"accessMode": "ReadWriteMany"})
    for step in (PREPARED, TRAINED, MERGED):
        step(cluster)
    cluster.limit(**limits)
    return cluster


def served(**limits: Any) -> Limited:
    cluster = trained()
    controllers.serve(cluster)
    assert reason(cluster) == "Serving"
    cluster.limit(**limits)
    return cluster


def pods(cluster: Limited) -> int:
    """Let the controllers work; return the number of serving pods."""
    for _ in range(4):
        cluster.settle()
        for pod in cluster.each("Pod"):
            if controllers.alive(pod) and "deletionTimestamp" in pod["metadata"]:
                controllers.stop(cluster, pod)
        controllers.serve(cluster)
    return sum(
        pod["metadata"]["labels"]["finetune.dev/stage"] == "serve" and controllers.alive(pod)
        for pod in cluster.each("Pod")
    )


def test_an_endpoint_within_the_budget_starts() -> None:
    cluster = trained(max_gpus=4)
    assert pods(cluster) == 1
    assert reason(cluster) == "Serving"


@pytest.mark.parametrize("stops", [True, False])
def test_no_endpoint_starts_in_an_exhausted_budget(stops: bool) -> None:
    cluster = trained(**EXHAUSTED, stops=stops)
    cluster.settle()
    found = condition(cluster)
    assert (found["status"], found["reason"]) == ("False", "ServingOverBudget")
    assert found["message"] == (
        "The endpoint has no pods because FineTuneBudget team is exhausted for this month: "
        "endpoints have used 100 of 100 GPU-hours. It starts by itself at 2030-02-01 00:00 UTC."
    )
    assert condition(cluster, "Suspended")["status"] == "True"
    assert condition(cluster, "Succeeded")["status"] == "True"
    assert not cluster.list("Deployment")
    assert "budget" not in cluster.status, "it takes no place among those that wait to train"
    cluster.limit()
    assert pods(cluster) == 1
    assert reason(cluster) == "Serving"


def test_an_exhausted_budget_stops_endpoints_until_the_next_period() -> None:
    cluster = served(**EXHAUSTED, stops=True)
    assert pods(cluster) == 0
    assert reason(cluster) == "ServingOverBudget"
    assert serves(cluster) == "False/ServingOverBudget"
    planned = plan(cluster.observe(), now=cluster.now)
    assert planned.requeue_after == delays.WAITING
    cluster.limit(stops=True)
    cluster.settle()
    assert reason(cluster) == "Starting", "the pods load the model; the endpoint is not down"
    assert pods(cluster) == 1
    assert reason(cluster) == "Serving"


def test_an_exhausted_budget_that_keeps_endpoints_adds_no_pods() -> None:
    cluster = served(**EXHAUSTED)
    assert pods(cluster) == 1
    assert reason(cluster) == "Serving"
    cluster.edit(serving={"replicas": 3})
    assert pods(cluster) == 1
    assert condition(cluster, "Serving")["message"].endswith(
        ". A FineTuneBudget limits endpoints, so it has fewer pods than spec.serving.replicas"
    )
    cluster.edit(serving={"replicas": 0})
    assert pods(cluster) == 0
    assert reason(cluster) == "ScaledToZero"
    cluster.edit(serving={"replicas": 1})
    assert pods(cluster) == 0
    assert reason(cluster) == "ServingOverBudget"


def test_the_strictest_of_several_exhausted_budgets_applies() -> None:
    cluster = served()
    keeps = ServingBalance(limit=LIMIT, used=EXHAUSTED["used"])
    usual = cluster.accounts()
    balance = usual.balances["team"]
    both = {
        "company": replace(balance, name="company", serving=keeps),
        "team": replace(balance, serving=replace(keeps, stops=True)),
    }
    accounts = replace(usual, own=frozenset(both), balances=both)
    cluster.accounts = lambda: accounts  # type: ignore[method-assign]
    assert pods(cluster) == 0
    assert "FineTuneBudget team" in condition(cluster)["message"]


def test_gpus_are_granted_before_pods_exist() -> None:
    cluster = trained(limit=UNLIMITED, max_gpus=1)
    cluster.room = 0
    assert pods(cluster) == 0
    found = condition(cluster)
    assert found["reason"] == "ServingOverBudget"
    assert found["message"] == (
        "The endpoint has no pods because others have all GPUs that endpoints may have at the same "
        "time: 1 (FineTuneBudget team). It starts by itself when one of them is free."
    )
    planned = plan(cluster.observe(), now=cluster.now)
    assert (planned.serving_gpus, planned.requeue_after) == (1, delays.BUDGET)
    cluster.room = 1
    assert pods(cluster) == 1
    assert reason(cluster) == "Serving"
    cluster.granted_gpus = 0
    assert plan(cluster.observe(), now=cluster.now).serving_gpus is None, "it has them"


def test_as_many_pods_start_as_gpus_are_granted() -> None:
    cluster = trained(limit=UNLIMITED, max_gpus=2)
    cluster.edit(serving={"replicas": 3})
    cluster.room = 2
    assert pods(cluster) == 2
    assert reason(cluster) == "Serving"
    planned = plan(cluster.observe(), now=cluster.now)
    assert (planned.serving_gpus, planned.requeue_after) == (3, delays.BUDGET)


def test_a_smaller_limit_takes_no_pods_from_an_endpoint() -> None:
    cluster = served(limit=UNLIMITED, max_gpus=0)
    cluster.room = 0
    cluster.granted_gpus = 0
    assert pods(cluster) == 1
    assert reason(cluster) == "Serving"


def test_a_new_build_may_exceed_the_limit_until_it_has_replaced_the_other_one() -> None:
    cluster = served(limit=UNLIMITED, max_gpus=1)
    cluster.room = cluster.granted_gpus = 0
    before = cluster.status["serving"]["build"]
    cluster.edit(merge={"dtype": "bfloat16"})
    MERGED(cluster)
    cluster.settle()
    assert replicas(cluster) == [1, 1]
    assert pods(cluster) == 1
    assert cluster.status["serving"]["build"] != before
    assert reason(cluster) == "Serving"


def test_a_job_that_an_endpoint_serves_asks_for_no_gpus_of_its_own() -> None:
    cluster = Limited()
    cluster.endpoints["chat"] = endpoint()
    cluster.edit(runPolicy={"maxGpuSeconds": HOUR}, serving=SHARED)
    for step in (PREPARED, TRAINED):
        step(cluster)
    controllers.publish(cluster)
    report(cluster, answers=cluster.status["sharedModel"]["adapter"])
    assert reason(cluster) == "Serving"
    cluster.limit(max_gpus=4)
    cluster.edit(training={"seed": 1})
    planned = plan(cluster.observe(), now=cluster.now)
    assert cluster.status["serving"]["build"] == cluster.status["build"], "it is the earlier one"
    assert planned.serving_gpus is None


def test_a_budget_stops_no_pods_whose_volume_is_deleted() -> None:
    """They are the last ones that can read the model."""
    cluster = served()
    cluster.edit(rerun="again")
    cluster.settle()
    (volume, *_) = cluster.each("PersistentVolumeClaim")
    controllers.delete(cluster, "PersistentVolumeClaim", volume["metadata"]["name"], "Foreground")
    cluster.limit(**EXHAUSTED, stops=True)
    cluster.settle()
    assert replicas(cluster) == [1]


def test_a_build_that_a_budget_stopped_while_another_one_trains_starts_again() -> None:
    cluster = served()
    cluster.edit(rerun="again", serving={"rollout": "FreeGPU"})
    PREPARED(cluster)
    running("train")(cluster)
    assert replicas(cluster) == [1], "the train pod has a GPU of its own"
    cluster.limit(**EXHAUSTED, stops=True)
    cluster.settle()
    assert (replicas(cluster), serves(cluster)) == ([0], "False/ServingOverBudget")
    cluster.limit(stops=True)
    cluster.settle()
    assert replicas(cluster) == [1]


def test_no_gpu_is_granted_to_a_candidate_that_gets_no_pods() -> None:
    cluster = trained(limit=UNLIMITED, max_gpus=1)
    cluster.settle()
    cluster.edit(suspend=True)
    cluster.room = cluster.granted_gpus = 0
    cluster.settle()
    assert replicas(cluster) == [0]
    assert plan(cluster.observe(), now=cluster.now).serving_gpus is None
