"""Events that must not replace a pod or create a Job of a serving job."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.integration import operatorprocess
from tests.integration.controlplane import ControlPlane, wait_until
from tests.integration.namespace import Namespace
from tests.integration.operatorprocess import OperatorProcess
from tests.integration.test_operator_with_controllers import live
from tests.integration.test_what_people_see import kubectl

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

Starts = Callable[..., AbstractContextManager[OperatorProcess]]


@pytest.fixture(scope="module")
def served(
    controller_manager: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Namespace, Path, Starts]]:
    """A job that was applied and serves, its manifest, and what starts an operator for it."""
    place = Namespace(controller_manager, controller_manager.namespace("finished"))
    folder = tmp_path_factory.mktemp("operator")
    manifest = folder / "finetune.json"
    manifest.write_text(json.dumps(MANIFEST))

    def starts(**how: Any) -> AbstractContextManager[OperatorProcess]:
        return operatorprocess.operator(controller_manager, folder, **how)

    with starts() as operator:
        kubectl(place, "apply", "-f", str(manifest))
        live(place, "Serving")
        operator.settled()
    yield place, manifest, starts
    controller_manager.delete(place.path("finetunejobs"))


Served = tuple[Namespace, Path, Starts]


def snapshot(place: Namespace) -> dict[str, Any]:
    """Return what serves, what it serves from, what is said of it, and every version."""
    return {
        "versions": {
            name: version
            for name, version in place.versions().items()
            # Of these two kinds others write, too.
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


def look(operator: OperatorProcess, place: Namespace) -> None:
    """Reconcile the job again."""
    reconciles = operator.metric("controller_runtime_reconcile_total")
    labels = {"metadata": {"labels": {"reconciles": f"{operator.port}-{reconciles:.0f}"}}}
    place.plane.merge(place.path("finetunejobs", "demo"), labels)
    wait_until(
        "the job is reconciled again",
        lambda: operator.metric("controller_runtime_reconcile_total") > reconciles,
    )
    operator.settled()


@pytest.mark.parametrize("days", [3650, -3650])
def test_a_clock_that_is_wrong_by_ten_years(served: Served, days: int) -> None:
    place, _, starts = served
    before = snapshot(place)
    with starts(prelude=CLOCK.format(days=days)) as operator:
        operator.settled()
        look(operator, place)
        assert snapshot(place) == before


@pytest.mark.parametrize("how", [(), ("--server-side", "--force-conflicts")], ids=str)
def test_applying_the_same_manifest_again(served: Served, how: tuple[str, ...]) -> None:
    place, manifest, starts = served
    before = snapshot(place)
    with starts() as operator:
        operator.settled()
        writes = operator.writes()
        kubectl(place, "apply", *how, "-f", str(manifest))
        look(operator, place)
        assert place.job()["metadata"]["generation"] == 1
        assert (snapshot(place), operator.writes()) == (before, writes)


def test_deletion_of_its_jobs(served: Served) -> None:
    place, _, starts = served
    with starts() as operator:
        operator.settled()
        before = snapshot(place)
        kubectl(place, "delete", "jobs", "--all", "--wait=false")
        wait_until("the Jobs are gone", lambda: not place.items("jobs"))
        look(operator, place)
        for job in [name for name in before["versions"] if name.startswith("jobs/")]:
            del before["versions"][job]
        assert snapshot(place) == before
