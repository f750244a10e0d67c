"""Retention of revisions: edits on a real API server keep some revisions and prune others."""

from typing import Any

import pytest
from tests.fakes import kubelet
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess
from tests.support.api_server.scenarios import PodStatus, ScenarioRunner, all_complete

from finetune_operator.objects import naming

pytestmark = pytest.mark.usefixtures("controller_manager")

KINDS = ("jobs", "pods", "deployments", "configmaps", "persistentvolumeclaims")


class History:
    """A job with several edits, and its revisions."""

    def __init__(self, plane: ControlPlane, place: Namespace) -> None:
        self.place, self.runner = place, ScenarioRunner(plane=plane)

    def edit(self, reason: str, pod_status: PodStatus = all_complete, **spec: Any) -> str:
        """Edit the job; return its revision when Ready has the reason for the new generation."""
        path = self.place.path("finetunejobs", "demo")
        generation = self.place.plane.merge(path, {"spec": spec})["metadata"]["generation"]
        self.runner.pod_status = pod_status

        def has_reason() -> bool:
            job = self.runner.jobs.get((self.place.name, "demo"), {})
            snapshot = job.get("status", {}).get("observedGeneration")
            return snapshot == generation and self.runner.reason(self.place.name) == reason

        self.runner.until(f"Ready has reason {reason}", has_reason)
        return str(self.place.job()["status"]["revision"])

    def wait_for(self, *revisions: str) -> None:
        """Wait until exactly these revisions have objects, and check that the status lists them."""
        self.runner.until(
            f"only {revisions} have objects", lambda: set(self.present()) == set(revisions)
        )
        assert [each["revision"] for each in self.place.job()["status"]["revisions"]] == [
            *revisions
        ]

    def present(self) -> dict[str, set[str]]:
        """Return the kinds of the objects of each revision."""
        found: dict[str, set[str]] = {}
        for kind in KINDS:
            for each in self.place.items(kind):
                if revision := each["metadata"].get("labels", {}).get(naming.REVISION):
                    found.setdefault(revision, set()).add(kind)
        return found

    def jobs(self) -> set[str]:
        return {job["metadata"]["uid"] for job in self.place.items("jobs")}


def training(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a pod; train pods run and do not end."""
    return kubelet.running() if kubelet.stage_of(pod) == "train" else all_complete(pod)


def broken(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a pod; prepare fails with a terminal error."""
    if kubelet.stage_of(pod) == "prepare":
        return kubelet.failed("prepare", code=65, reason="DatasetInvalid", message="row 7 is empty")
    return all_complete(pod)


def test_old_revisions_are_pruned_and_an_edit_back_trains_nothing(
    operator: OperatorProcess, control_plane: ControlPlane, place: Namespace
) -> None:
    history = History(control_plane, place)
    place.submit()
    first = history.edit("Serving", revisionHistoryLimit=2)
    abandoned = history.edit("Training", training, rerun="abandoned")
    history.runner.until(
        "the abandoned revision trains",
        lambda: any(
            (pod["metadata"]["labels"][naming.REVISION], kubelet.stage_of(pod))
            == (abandoned, "train")
            for pod in history.runner.pods
        ),
    )
    failed = history.edit("DatasetInvalid", broken, rerun="failed")
    # The serving revision, the target revision, and one more within revisionHistoryLimit.
    history.wait_for(first, abandoned, failed)
    assert {"jobs", "configmaps", "persistentvolumeclaims"} <= history.present()[abandoned]
    assert {"jobs", "configmaps", "persistentvolumeclaims"} <= history.present()[failed]

    second = history.edit("Serving", rerun="second", revisionHistoryLimit=1)
    history.wait_for(first, second)
    history.runner.until(
        "the first revision has no Deployment",
        lambda: "deployments" not in history.present()[first],
    )

    jobs = history.jobs()
    assert history.edit("Serving", rerun=None) == first
    history.wait_for(second, first)
    assert history.present()[first] >= {"deployments", "jobs"}
    assert history.jobs() == jobs, "no stage ran again"

    assert history.edit("Serving", revisionHistoryLimit=0) == first
    history.wait_for(first)
    operator.settled()
    assert history.jobs() < jobs
    assert operator.failures() == []
