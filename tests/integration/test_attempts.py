"""Values that an attempt inherits from earlier attempts, with the real Job controller."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from tests.fakes import kubelet
from tests.integration.test_operator_with_controllers import all_complete, run_stages
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess

pytestmark = pytest.mark.usefixtures("controller_manager")


class Trainer:
    """The fake train pods of a job, with a server for their metrics.

    The spent GPU-seconds stay on the volume, as in the real ``usage.json``. A pod ends when it has
    spent its budget. ``prelude`` configures an operator to scrape the port of the server.
    """

    def __init__(self, place: Namespace) -> None:
        self.place = place
        self.budgets: list[int] = []
        """The budget of each pod, in GPU-seconds."""
        self._spent: Counter[str] = Counter()
        self._known: set[str] = set()
        registry = CollectorRegistry()
        Gauge("finetune_global_step", "", registry=registry).set(3)
        self._gauge = Gauge("finetune_gpu_seconds_total", "", registry=registry)
        self._info = Gauge("finetune_pod_info", "", ["uid"], registry=registry)
        self._server, _ = start_http_server(0, "127.0.0.1", registry)
        self.prelude = (
            "from finetune_operator.snapshot.scraping import trainer_metrics; "
            f"trainer_metrics.PORT = {self._server.server_port}"
        )

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def spend(self, seconds: int) -> None:
        """Complete earlier stages, wait for a new train pod, and let it spend GPU-seconds."""
        new: list[dict[str, Any]] = []

        def begins() -> bool:
            for pod in self.place.items("pods"):
                if pod["metadata"]["uid"] not in self._known:
                    self._known.add(pod["metadata"]["uid"])
                    if kubelet.stage_of(pod) == "train":
                        new.append(pod)
                    else:
                        kubelet.report(self.place, pod, all_complete(kubelet.stage_of(pod)))
            return bool(new)

        wait_until("a new pod trains", begins)
        (pod,), (claim,) = new, self.place.items("persistentvolumeclaims")
        self.budgets.append(json.loads(pod["spec"]["containers"][0]["args"][0])["maxGpuSeconds"])
        volume = claim["metadata"]["uid"]
        self._spent[volume] += seconds
        # Without an identity, a scrape at this moment has no values.
        self._info.clear()
        self._gauge.set(self._spent[volume])
        self._info.labels(pod["metadata"]["uid"]).set(1)
        status = kubelet.running() | {"podIP": "127.0.0.1"}
        if self._spent[volume] >= self.budgets[-1]:
            status = kubelet.failed(
                "train",
                code=85,
                reason="BudgetExceeded",
                message=f"{self._spent[volume]} GPU seconds are spent",
                gpu_seconds=self._spent[volume],
            )
        # The operator accepts no more GPU time than has passed since the first pod started.
        started = datetime.now(UTC) - timedelta(hours=1)
        status |= {"startTime": started.isoformat(timespec="seconds").replace("+00:00", "Z")}
        kubelet.report(self.place, pod, status)


@pytest.fixture
def trainer(place: Namespace) -> Iterator[Trainer]:
    """The trainer of the job in the namespace."""
    found = Trainer(place)
    yield found
    found.close()


def edit(place: Namespace, **changes: Any) -> None:
    place.plane.merge(place.path("finetunejobs", "demo"), {"spec": changes})


def attempt(each: dict[str, Any]) -> int:
    return int(each["metadata"]["labels"]["finetune.dev/attempt"])


def of_stage(place: Namespace, kind: str, stage: str) -> list[dict[str, Any]]:
    return [each for each in place.items(kind) if kubelet.stage_of(each) == stage]


def test_a_merge_that_ran_out_of_memory_gets_more_memory_once(
    operator: OperatorProcess, place: Namespace
) -> None:
    asked: list[tuple[str, str]] = []

    def stage_status(stage: str) -> dict[str, Any]:
        if stage != "merge":
            return all_complete(stage)
        # The pod of an earlier attempt can still exist.
        pod = max(of_stage(place, "pods", "merge"), key=attempt)
        own = pod["spec"]["containers"][0]["resources"]
        asked.append((own["requests"]["memory"], own["limits"]["memory"]))
        return kubelet.ended(137, "OOMKilled")

    place.submit()
    assert run_stages(place, "OutOfMemory", stage_status) == ["prepare", "train", "merge", "merge"]
    assert asked == [("2Gi", "4Gi"), ("8Gi", "8Gi")]
    assert place.condition("Stalled")["reason"] == "OutOfMemory"
    message = place.condition("Ready")["message"]
    assert "merge-2 exceeded its memory limit" in message
    assert "Raise spec.resources.merge.limits.memory" in message
    wait_until("the Jobs are deleted", lambda: not of_stage(place, "jobs", "merge"))
    # The garbage collector deletes the pods of a Job later than the Job.
    wait_until("the pods are deleted", lambda: not of_stage(place, "pods", "merge"))
    operator.settled()
    assert not of_stage(place, "jobs", "merge"), "no further attempt is started"

    edit(place, resources={"merge": {"limits": {"memory": "20Gi"}}})
    run_stages(place, "Serving")
    (record,) = place.job()["status"]["revisions"]
    attempts = {each["stage"]: each["attempt"] for each in record["stages"]}
    assert attempts == {"prepare": 1, "train": 1, "merge": 3, "serve": 1}
    assert operator.failures() == []


def test_gpu_seconds_are_summed_over_all_attempts(
    control_plane: ControlPlane, place: Namespace, trainer: Trainer, tmp_path: Path
) -> None:
    """A pod without a node is deleted immediately, so its final GPU-seconds are never reported."""

    def starts() -> AbstractContextManager[OperatorProcess]:
        return operatorprocess.operator(control_plane, tmp_path, prelude=trainer.prelude)

    def is_spent(seconds: int) -> None:
        wait_until(
            f"{seconds} s are spent",
            lambda: place.job()["status"].get("training", {}).get("gpuSeconds") == seconds,
        )

    def delete_the_job() -> None:
        """Delete the Job and its pods, like ``kubectl delete job``."""
        (job,) = of_stage(place, "jobs", "train")
        path = place.path("jobs", job["metadata"]["name"])
        place.plane.delete(f"{path}?propagationPolicy=Background")

    def made() -> dict[str, set[str]]:
        kinds = ("jobs", "pods", "deployments")
        return {kind: {each["metadata"]["uid"] for each in place.items(kind)} for kind in kinds}

    place.submit(spec={"runPolicy": {"maxGpuSeconds": 600}})
    with starts() as first:
        trainer.spend(100)
        is_spent(100)
        delete_the_job()
        trainer.spend(80)
        is_spent(180)
        edit(place, suspend=True)
        wait_until("no pod trains", lambda: not of_stage(place, "pods", "train"))
        first.process.kill()
    edit(place, suspend=False)
    with starts() as second:
        trainer.spend(70)
        is_spent(250)
        (claim,) = place.items("persistentvolumeclaims")
        place.plane.delete(place.path("persistentvolumeclaims", claim["metadata"]["name"]))
        trainer.spend(20)
        is_spent(270)
        delete_the_job()
        trainer.spend(340)
        wait_until("the job is stalled", lambda: bool(place.condition("Stalled")))
        assert place.condition("Stalled")["reason"] == place.reason() == "BudgetExceeded"
        is_spent(610)
        # No trainer can know the GPU-seconds that were recorded on the deleted volume.
        assert trainer.budgets == [600, 600, 600, 350, 350]
        second.settled()
        before = made()
        assert before["deployments"] == set()
    with starts() as third:
        third.settled()
        assert third.metric("controller_runtime_reconcile_total") >= 1
        assert (made(), place.reason()) == (before, "BudgetExceeded")
        edit(place, runPolicy={"maxGpuSeconds": 1200})
        trainer.spend(30)
        is_spent(640)
        assert trainer.budgets[-1] == 950
