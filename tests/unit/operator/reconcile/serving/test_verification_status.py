"""``status.verification``: of the serving build only; kept if no pod reports a new result."""

import dataclasses

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster

from finetune_operator.objects.index import IndexedSnapshot, index
from finetune_operator.reconcile.serving.verification import verification_status
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.types import Verification

KNOWN = {"pod": "demo-a", "build": "a", "outcome": "Verified", "distance": "0.001"}
NEW = Verification(
    pod="demo-b-2", build="b", outcome="Verified", distance=0.00123456, tolerance=0.5, seconds=None
)


def snapshot(found: Verification | None) -> IndexedSnapshot:
    cluster = Cluster()
    controllers.run_all(cluster)
    cluster.status["verification"] = KNOWN
    return dataclasses.replace(index(cluster.observe()), verification=found)


def test_a_new_result_of_the_serving_build_is_written_with_four_digits() -> None:
    assert verification_status(snapshot(NEW), Ledger({}), "b") == {
        "pod": "demo-b-2",
        "build": "b",
        "outcome": "Verified",
        "distance": "0.001235",
        "tolerance": "0.5",
    }


def test_a_result_of_another_build_does_not_replace_that_of_the_serving_build() -> None:
    assert verification_status(snapshot(NEW), Ledger({}), "a") == KNOWN


def test_without_a_new_result_the_previous_one_of_the_same_build_stays() -> None:
    assert verification_status(snapshot(None), Ledger({}), "a") == KNOWN
    assert verification_status(snapshot(None), Ledger({}), "b") == {}
    assert verification_status(snapshot(None), Ledger({}), None) == {}
