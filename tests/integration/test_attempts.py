"""What the attempts at a stage have from each other, with the real Job controller between them."""

from typing import Any

import pytest
from tests.integration import kubelet
from tests.integration.controlplane import wait_until
from tests.integration.namespace import Namespace
from tests.integration.operatorprocess import OperatorProcess
from tests.integration.test_operator_with_controllers import all_well, live

pytestmark = pytest.mark.usefixtures("controller_manager")


def edit(place: Namespace, **changes: Any) -> None:
    place.plane.merge(place.path("finetunejobs", "demo"), {"spec": changes})


def of_stage(place: Namespace, kind: str, stage: str) -> list[dict[str, Any]]:
    return [each for each in place.items(kind) if kubelet.stage_of(each) == stage]


def test_a_merge_out_of_memory_gets_more_of_it_once(
    operator: OperatorProcess, place: Namespace
) -> None:
    asked: list[tuple[str, str]] = []

    def fate(stage: str) -> dict[str, Any]:
        if stage != "merge":
            return all_well(stage)
        (pod,) = of_stage(place, "pods", "merge")
        own = pod["spec"]["containers"][0]["resources"]
        asked.append((own["requests"]["memory"], own["limits"]["memory"]))
        return kubelet.ended(137, "OOMKilled")

    place.submit()
    assert live(place, "OutOfMemory", fate) == ["stage", "train", "merge", "merge"]
    assert asked == [("2Gi", "4Gi"), ("8Gi", "8Gi")]
    assert place.condition("Stalled")["reason"] == "OutOfMemory"
    message = place.condition("Ready")["message"]
    assert "merge-2 used more memory than its limit" in message
    assert "raise spec.resources.merge.limits.memory" in message
    wait_until("nothing tries again", lambda: not of_stage(place, "jobs", "merge"))
    operator.settled()
    assert not of_stage(place, "pods", "merge")

    edit(place, resources={"merge": {"limits": {"memory": "20Gi"}}})
    live(place, "Serving")
    (record,) = place.job()["status"]["revisions"]
    attempts = {each["stage"]: each["attempt"] for each in record["stages"]}
    assert attempts == {"stage": 1, "train": 1, "merge": 3, "serve": 1}
    assert operator.metric("controller_runtime_reconcile_errors_total") == 0
