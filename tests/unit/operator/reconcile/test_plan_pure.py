"""``plan()`` is a function: equal plans from one snapshot, which it does not change."""

from collections.abc import Callable

import pytest
from tests.fakes.apiserver import Cluster, copied
from tests.support.reconcile.plan_steps import (
    MERGED,
    PREPARED,
    SUSPEND,
    TRAINED,
    edit,
    run_all,
    running,
)

from finetune_operator.types import LISTS

SITUATIONS: dict[str, tuple[Callable[[Cluster], object], ...]] = {
    "new job": (),
    "training": (PREPARED, running("train")),
    "serving": (run_all,),
    "rollout": (run_all, edit(rerun="again"), PREPARED, TRAINED, MERGED),
    "suspended": (PREPARED, running("train"), SUSPEND),
    "invalid spec": (run_all, edit(training={"epochs": 1, "maxSteps": 2})),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_two_plans_of_one_snapshot_are_equal_and_do_not_change_it(situation: str) -> None:
    cluster = Cluster()
    for step in SITUATIONS[situation]:
        step(cluster)
    snapshot = cluster.observe()
    fields = ("job", "events", *LISTS.values())
    before = [copied(getattr(snapshot, field)) for field in fields]
    first, second = (cluster.plan_of(snapshot) for _ in range(2))
    assert first == second
    assert [getattr(snapshot, field) for field in fields] == before
