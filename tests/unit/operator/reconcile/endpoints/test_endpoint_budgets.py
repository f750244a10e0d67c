"""Budgets of FineTuneEndpoints: when the pod starts, when it stops, and what is reported."""

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.reconcile.endpoint_world import World

from finetune_operator import delays
from finetune_operator.budgets.accounts import Accounts
from finetune_operator.budgets.amounts import UNLIMITED, Amount, Bound
from finetune_operator.budgets.balances import Balance, ServingBalance
from finetune_operator.budgets.periods import containing

HOUR = 3600
NOW = datetime(2026, 11, 30, 8, tzinfo=UTC)
LIMIT = Bound(gpu_seconds=100 * HOUR)
EXHAUSTED: dict[str, Any] = {"limit": LIMIT, "used": Amount(gpu_seconds=100 * HOUR)}


def accounts(granted: int = 0, **serving: Any) -> Accounts:
    """Return the accounts of a namespace whose budget limits endpoints."""
    balance = Balance(
        name="team",
        period=containing("Month", NOW),
        now=NOW,
        limit=UNLIMITED,
        serving=ServingBalance(**{"limit": UNLIMITED, **serving}),
    )
    return Accounts(own=frozenset({"team"}), balances={"team": balance}, serving_gpus=granted)


def prepared(granted: int = 0, **serving: Any) -> World:
    """Return an endpoint whose base is prepared, and whose pod does not exist yet."""
    world = World()
    world.publish("a")
    world.step()
    world.end_base()
    world.accounts = accounts(granted, **serving)
    return world


def served(**serving: Any) -> World:
    """Return an endpoint that serves when its budget changes."""
    world = prepared(1, max_gpus=1)
    world.step()
    world.serve()
    world.step()
    assert world.reason == "Serving"
    world.accounts = accounts(**serving)
    return world


def pods(world: World) -> int:
    assert world.deployment is not None
    return int(world.deployment["spec"]["replicas"])


def test_the_pod_starts_once_its_gpu_is_granted() -> None:
    world = prepared(max_gpus=2)
    plan = world.step()
    assert (plan.serving_gpus, pods(world)) == (1, 0)
    condition = world.condition("Ready")
    assert (condition["status"], condition["reason"]) == ("False", "ServingOverBudget")
    assert "2 (FineTuneBudget team)" in condition["message"]
    assert plan.requeue_after == delays.BUDGET
    (model,) = world.status["models"]
    assert model["message"] == condition["message"], "its job shows why the model waits"
    world.accounts = accounts(1, max_gpus=2)
    assert world.step().serving_gpus is None
    assert (pods(world), world.reason) == (1, "Starting")


def test_no_gpu_is_asked_for_while_the_base_is_prepared() -> None:
    world = World()
    world.accounts = accounts(max_gpus=0)
    assert world.step().serving_gpus is None
    assert world.reason == "PreparingBase", "preparing needs no GPU"


@pytest.mark.parametrize("stops", [True, False])
def test_no_pod_starts_in_an_exhausted_budget(stops: bool) -> None:
    world = prepared(1, **EXHAUSTED, stops=stops)
    plan = world.step()
    assert (plan.serving_gpus, pods(world)) == (None, 0)
    assert world.reason == "ServingOverBudget"
    assert "100 of 100 GPU-hours" in world.condition("Ready")["message"]
    assert world.condition("BaseReady")["status"] == "True"


def test_an_exhausted_budget_stops_the_pod_only_if_it_says_so() -> None:
    world = served(**EXHAUSTED)
    world.step()
    assert (pods(world), world.reason) == (1, "Serving"), "Keep"
    world.accounts = accounts(**EXHAUSTED, stops=True)
    world.step()
    assert (pods(world), world.reason) == (0, "ServingOverBudget")
    assert world.deployment is not None
    world.deployment["status"] |= {"updatedReplicas": 0, "availableReplicas": 0}
    world.gate = None
    world.step()
    serving = world.condition("Serving")
    assert (serving["status"], serving["reason"]) == ("False", "ServingOverBudget")
    world.accounts = accounts()
    world.step()
    assert pods(world) == 1, "the next period"


def test_a_smaller_number_of_gpus_takes_no_pod() -> None:
    world = served(max_gpus=0)
    assert world.step().serving_gpus is None
    assert (pods(world), world.reason) == (1, "Serving")
