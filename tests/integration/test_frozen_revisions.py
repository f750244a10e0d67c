"""Attacks on a job by a tenant who can create ConfigMaps, on a real API server."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.controllers import request_of
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import CONFIG, OperatorProcess
from tests.support.attacks.forged_revisions import hostile_configmap


def suspended(place: Namespace) -> tuple[dict[str, Any], str]:
    """Return a suspended job and its revision, for which no object exists yet."""
    place.submit(suspend=True)
    wait_until("the job is suspended", lambda: place.reason() == "SuspendedByUser")
    job = place.job()
    return job, job["status"]["revision"]


def resume(place: Namespace) -> None:
    place.plane.merge(place.path("finetunejobs", "demo"), {"spec": {"suspend": False}})


def nudge(place: Namespace) -> None:
    """Change a label, so that the operator reconciles now and not at the next resync."""
    place.plane.merge(
        place.path("finetunejobs", "demo"), {"metadata": {"labels": {"nudge": "now"}}}
    )


def forge(place: Namespace, job: dict[str, Any], name: str, revision: str, **labels: Any) -> None:
    body = hostile_configmap(job, name, revision)
    body["metadata"]["labels"] |= labels
    body["metadata"]["labels"] = {k: v for k, v in body["metadata"]["labels"].items() if v}
    place.plane.post(place.path("configmaps"), body)


def assert_created_by_operator(place: Namespace) -> None:
    """Check that the operator rendered the Job, and that the Job expects the right ConfigMap."""
    (stage,) = place.items("jobs")
    (container,) = stage["spec"]["template"]["spec"]["containers"]
    assert container["image"] == CONFIG["images"]["trainer"]
    assert "hostile" not in str(stage["spec"]).lower()
    revision = place.job()["status"]["revisions"][0]
    configmap = place.plane.get(place.path("configmaps", f"demo-{revision['revision']}"))
    for document, field in (("job.json", "jobDigest"), ("operator.json", "operatorDigest")):
        found = hashlib.sha256(configmap["data"][document].encode()).hexdigest()
        assert found == revision["frozen"][field]
    assert request_of(stage).config_digest == revision["frozen"]["jobDigest"]


def test_a_forged_configmap_does_not_change_the_job(
    operator: OperatorProcess, place: Namespace
) -> None:
    job, revision = suspended(place)
    forge(place, job, "aa-mine", revision)
    forge(place, job, "zz-mine", revision)
    resume(place)
    place.wait_until_preparing()
    assert_created_by_operator(place)


@pytest.mark.parametrize("labeled", [True, False])
def test_a_forged_configmap_with_the_name_of_the_revision_starts_no_job(
    operator: OperatorProcess, place: Namespace, labeled: bool
) -> None:
    """Without the label of the job, only the create request of the operator finds the ConfigMap."""
    job, revision = suspended(place)
    labels = {} if labeled else {"finetune.dev/job": None}
    forge(place, job, f"demo-{revision}", revision, **labels)
    resume(place)
    wait_until("the job is stalled", lambda: place.reason() == "ConfigurationChanged")
    assert place.condition("Stalled")["status"] == "True"
    assert f"Delete ConfigMap demo-{revision}" in place.condition("Ready")["message"]
    assert place.items("jobs") == []

    place.plane.delete(place.path("configmaps", f"demo-{revision}"))
    nudge(place)
    place.wait_until_preparing()
    assert_created_by_operator(place)


def test_a_deleted_configmap_is_created_again_with_the_same_content(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    """A new operator process with other images creates the ConfigMap again."""
    place.submit()
    with operatorprocess.operator(control_plane, tmp_path) as first:
        place.wait_until_preparing()
        first.settled()
    name = f"demo-{place.job()['status']['revision']}"
    data = place.plane.get(place.path("configmaps", name))["data"]
    place.plane.delete(place.path("configmaps", name))
    newer = {**CONFIG, "images": dict.fromkeys(CONFIG["images"], "registry.test/newer:2")}
    with operatorprocess.operator(control_plane, tmp_path, newer):
        wait_until(
            "the ConfigMap exists again",
            lambda: name in {each["metadata"]["name"] for each in place.items("configmaps")},
        )
    assert place.plane.get(place.path("configmaps", name))["data"] == data
    assert_created_by_operator(place)
