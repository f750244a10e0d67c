"""Records of usage with a real API server: reservation, charges, and what outlives a job."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import kubelet
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ApiError, ControlPlane, wait_until
from tests.support.api_server.manifest_files import kubectl
from tests.support.api_server.namespace import Namespace

PROFILES = "/apis/finetune.dev/v1alpha1/finetuneprofiles"
USAGES = "/apis/finetune.dev/v1alpha1/finetuneusages"
SHORT = """
from finetune_operator import delays
from finetune_operator.usage import settlement
delays.SETTLEMENT, settlement.RESERVED_FOR = 0.5, 1
"""

pytestmark = pytest.mark.usefixtures("controller_manager")


def usage_of(place: Namespace) -> dict[str, Any]:
    """Return the status of the usage of a namespace in this month, empty before it exists."""
    month = datetime.now(UTC).strftime("%Y-%m")
    try:
        found = place.plane.get(f"{USAGES}/{place.name}-{month}")
    except ApiError as error:
        if error.status != 404:
            raise
        return {}
    assert found["metadata"]["labels"]["finetune.dev/namespace"] == place.name
    status: dict[str, Any] = found.get("status", {})
    return status


def mark(place: Namespace) -> dict[str, Any]:
    """Return the mark of the only training."""
    marks = [each for each in usage_of(place).get("marks", ()) if "gpus" not in each]
    return dict(marks[0]) if marks else {}


def pod_of(place: Namespace, stage: str) -> dict[str, Any]:
    def pods() -> list[dict[str, Any]]:
        return [each for each in place.items("pods") if kubelet.stage_of(each) == stage]

    wait_until(f"there is a {stage} pod", lambda: pods() != [])
    return pods()[0]


def scheduled(*, ago: int) -> dict[str, Any]:
    """Return the conditions of a pod that has had its node for some seconds."""
    since = (datetime.now(UTC) - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": since}]}


def test_a_training_is_reserved_charged_and_remembered(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    control_plane.post(
        PROFILES,
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneProfile",
            "metadata": {"name": place.name},
            "spec": {"price": {"perGpuHour": "3.60", "currency": "EUR"}},
        },
    )
    config = {**operatorprocess.CONFIG, "usage": {"enabled": True}}
    try:
        place.submit(
            spec={
                "profile": place.name,
                "runPolicy": {"maxGpuSeconds": 7200},
                "serving": {"enabled": False},
                "merge": {"enabled": False},
            }
        )
        with operatorprocess.operator(control_plane, tmp_path, config, prelude=SHORT):
            kubelet.report(place, pod_of(place, "prepare"), kubelet.completed("prepare"))
            pod = pod_of(place, "train")
            assert (mark(place)["cap"], mark(place)["used"]) == (7200, 0)
            kubelet.report(place, pod, {**kubelet.running(), **scheduled(ago=1000)})
            wait_until("the pod is charged", lambda: mark(place)["used"] >= 1000)
            kubelet.report(place, pod, {**kubelet.completed("train"), **scheduled(ago=1000)})
            wait_until("the job is ready", lambda: place.reason() == "Completed")
            wait_until("the reservation has ended", lambda: bool(mark(place).get("ended")))
            used = mark(place)["used"]
            cost = f"{used / 1000:.2f}"
            wait_until(
                "the status has the cost", lambda: place.job()["status"]["cost"]["cost"] == cost
            )
        listed = kubectl(control_plane, "get", "ftj", "demo", "-n", place.name, "-o", "wide")
        assert f"{cost} EUR" in listed.stdout
        control_plane.delete(place.path("finetunejobs", "demo"))
        with operatorprocess.operator(control_plane, tmp_path, config, prelude=SHORT) as running:
            running.settled()
            assert mark(place)["used"] == used
            labels = {"job_namespace": place.name, "purpose": "training"}
            wait_until(
                "the metrics have the usage of earlier processes",
                lambda: running.metric("finetune_month_gpu_seconds", **labels) == used,
            )
        listed = kubectl(control_plane, "get", "ftu", "-l", f"finetune.dev/namespace={place.name}")
        head, line = listed.stdout.splitlines()
        assert head.split() == ["NAME", "NAMESPACE", "MONTH", "TRAINING", "SERVING", "COST"]
        assert line.split()[1:2] + line.split()[-2:] == [place.name, cost, "EUR"]
    finally:
        control_plane.delete(f"{PROFILES}/{place.name}")
