"""Changes in the cluster that must neither replace a pod of a serving job nor create a Job."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_kubectl_and_metrics import kubectl
from tests.integration.test_operator_with_controllers import run_stages
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess

MANIFEST = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "demo", "labels": {"team": "a"}},
    "spec": {
        "model": {"source": "hf://acme/base"},
        "dataset": {"source": "hf://acme/data", "format": "alpaca"},
    },
}
CLOCK = """
from datetime import datetime, timedelta
from finetune_operator import controller
class Wrong(datetime):
    @classmethod
    def now(cls, zone=None):
        return datetime.now(zone) + timedelta(days={days})
controller.datetime = Wrong
"""

StartOperator = Callable[..., AbstractContextManager[OperatorProcess]]


@pytest.fixture(scope="module")
def served(
    controller_manager: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Namespace, Path, StartOperator]]:
    """The namespace of a serving job, its manifest, and a function that starts an operator."""
    place = Namespace(controller_manager, controller_manager.namespace("finished"))
    folder = tmp_path_factory.mktemp("operator")
    manifest = folder / "finetune.json"
    manifest.write_text(json.dumps(MANIFEST))

    def start(**how: Any) -> AbstractContextManager[OperatorProcess]:
        return operatorprocess.operator(controller_manager, folder, **how)

    with start() as operator:
        kubectl(place, "apply", "-f", str(manifest))
        run_stages(place, "Serving")
        operator.settled()
    yield place, manifest, start
    controller_manager.delete(place.path("finetunejobs"))


Served = tuple[Namespace, Path, StartOperator]


def snapshot(place: Namespace) -> dict[str, Any]:
    """Return the status, events, running pods, Deployments, and the version of every object."""
    return {
        "versions": {
            name: version
            for name, version in place.versions().items()
            # Other clients also write events and FineTuneJobs.
            if not name.startswith(("events/", "finetunejobs/"))
        },
        "events": [
            (each["metadata"]["name"], each.get("series"))
            for each in place.items("events")
            if each["regarding"]["kind"] == "FineTuneJob"
        ],
        "pods": {
            each["metadata"]["uid"]
            for each in place.items("pods")
            if each["status"]["phase"] == "Running"
        },
        "deployments": [
            (each["metadata"]["uid"], each["spec"]) for each in place.items("deployments")
        ],
        "status": place.job()["status"],
    }


def reconcile(operator: OperatorProcess, place: Namespace) -> None:
    """Reconcile the job again."""
    reconciles = operator.metric("controller_runtime_reconcile_total")
    labels = {"metadata": {"labels": {"reconciles": f"{operator.metrics_port}-{reconciles:.0f}"}}}
    place.plane.merge(place.path("finetunejobs", "demo"), labels)
    wait_until(
        "the job is reconciled again",
        lambda: operator.metric("controller_runtime_reconcile_total") > reconciles,
    )
    operator.settled()


@pytest.mark.parametrize("days", [3650, -3650])
def test_a_clock_that_is_wrong_by_ten_years_changes_nothing(served: Served, days: int) -> None:
    place, _, start = served
    before = snapshot(place)
    with start(prelude=CLOCK.format(days=days)) as operator:
        operator.settled()
        reconcile(operator, place)
        assert snapshot(place) == before


@pytest.mark.parametrize("how", [(), ("--server-side", "--force-conflicts")], ids=str)
def test_applying_the_same_manifest_again_changes_nothing(
    served: Served, how: tuple[str, ...]
) -> None:
    place, manifest, start = served
    before = snapshot(place)
    with start() as operator:
        operator.settled()
        writes = operator.writes()
        kubectl(place, "apply", *how, "-f", str(manifest))
        reconcile(operator, place)
        assert place.job()["metadata"]["generation"] == 1
        assert (snapshot(place), operator.writes()) == (before, writes)


def test_deleting_the_jobs_of_the_stages_changes_nothing_else(served: Served) -> None:
    place, _, start = served
    with start() as operator:
        operator.settled()
        before = snapshot(place)
        kubectl(place, "delete", "jobs", "--all", "--wait=false")
        wait_until("the Jobs are deleted", lambda: not place.items("jobs"))
        reconcile(operator, place)
        for job in [name for name in before["versions"] if name.startswith("jobs/")]:
            del before["versions"][job]
        assert snapshot(place) == before
