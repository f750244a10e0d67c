"""Limits of the policy: they stop the start of work, and nothing that runs or has finished."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing, copied
from tests.support.reconcile.plan_steps import PREPARED, running
from tests.support.signing_keys import KEY, new_key

from finetune_api.contracts.provenance.signatures import RequiredSignature
from finetune_api.contracts.stage_request import PrepareStageRequest
from finetune_operator.config import Settings
from finetune_operator.manifests import argv_v1

KEYLESS: Thing = {"tolerations": [{"operator": "Exists"}]}
BARE_LABEL: Thing = {"labels": {"app": "payments"}}
NO_HUB: Thing = {"sources": {"allow": ["pvc://.*"]}}
FEW: Thing = {"maxReplicas": 1}
NO_LABELS: Thing = {"podLabels": {"allow": []}}
OWN_LABEL: Thing = {"labels": {"example.com/team": "a"}}


def limit(cluster: Cluster, **limits: Any) -> None:
    """Restart the operator with other limits."""
    settings = cluster.config.model_dump(mode="json", exclude={"policy"})
    cluster.config = Settings.model_validate({**settings, "policy": limits})


def ready(cluster: Cluster) -> Thing:
    """Reconcile, and return the condition Ready."""
    cluster.settle()
    (found,) = (each for each in cluster.status["conditions"] if each["type"] == "Ready")
    return dict(found)


def is_stalled(cluster: Cluster) -> bool:
    return any(
        (each["type"], each["status"]) == ("Stalled", "True")
        for each in cluster.status["conditions"]
    )


def contents(cluster: Cluster) -> dict[tuple[str, str], Thing]:
    return {
        key: {part: each.get(part) for part in ("spec", "data")}
        | {"labels": each["metadata"].get("labels")}
        for key, each in cluster.objects.items()
    }


def serving(**spec: Any) -> Cluster:
    """Return a cluster whose job serves."""
    cluster = Cluster()
    cluster.edit(**spec)
    controllers.run_all(cluster)
    assert ready(cluster)["reason"] == "Serving"
    return cluster


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"priorityClassName": "system-node-critical"}, "spec.priorityClassName"),
        ({"placement": KEYLESS}, "spec.placement.tolerations"),
        ({"serving": {"placement": KEYLESS}}, "spec.serving.placement.tolerations"),
        ({"podMetadata": BARE_LABEL}, "spec.podMetadata.labels"),
    ],
)
def test_a_job_beyond_a_limit_creates_nothing(spec: Thing, field: str) -> None:
    cluster = Cluster()
    cluster.edit(**spec)
    condition = ready(cluster)
    assert (condition["status"], condition["reason"]) == ("False", "NotAllowed")
    assert condition["message"].startswith(f"{field}: ")
    assert "(chart value policy." in condition["message"]
    assert is_stalled(cluster)
    assert cluster.objects == {}


def test_all_violations_are_named() -> None:
    cluster = Cluster()
    cluster.edit(priorityClassName="system-node-critical", podMetadata=BARE_LABEL)
    message = ready(cluster)["message"]
    assert '"system-node-critical"' in message
    assert '"app"' in message


def test_an_edit_of_the_field_starts_the_job() -> None:
    cluster = Cluster()
    cluster.edit(placement=KEYLESS)
    assert ready(cluster)["reason"] == "NotAllowed"
    cluster.edit(placement={"tolerations": [{"key": "gpu", "operator": "Exists"}]})
    assert ready(cluster)["reason"] == "Preparing"


def test_a_wider_limit_starts_the_job() -> None:
    cluster = Cluster()
    cluster.edit(placement=KEYLESS)
    assert ready(cluster)["reason"] == "NotAllowed"
    limit(cluster, tolerations={})
    assert ready(cluster)["reason"] == "Preparing"


def test_defaults_of_the_chart_are_limited_too() -> None:
    cluster = Cluster()
    defaults = {"placement": KEYLESS}
    cluster.config = cluster.config.model_copy(update={"defaults": defaults})
    assert ready(cluster)["reason"] == "NotAllowed"


def test_a_suspended_job_beyond_a_limit_is_suspended() -> None:
    cluster = Cluster()
    cluster.edit(placement=KEYLESS, suspend=True)
    assert ready(cluster)["reason"] == "SuspendedByUser"


def test_a_tighter_limit_stops_no_running_stage() -> None:
    cluster = Cluster()
    running("prepare")(cluster)
    limit(cluster, **NO_HUB)
    before = contents(cluster)
    assert ready(cluster)["reason"] == "Preparing"
    assert contents(cluster) == before


def test_a_tighter_limit_stops_the_next_stage() -> None:
    cluster = Cluster()
    PREPARED(cluster)
    # The train Job has not been created yet.
    limit(cluster, **NO_HUB)
    assert ready(cluster)["reason"] == "NotAllowed"
    assert not any("train" in name for kind, name in cluster.objects if kind == "Job")
    limit(cluster)
    assert ready(cluster)["reason"] == "Training"


@pytest.mark.parametrize("limits", [NO_HUB, FEW, NO_LABELS], ids=["source", "replicas", "labels"])
def test_a_tighter_limit_changes_no_serving_job(limits: Thing) -> None:
    storage = {"accessMode": "ReadWriteMany"}
    cluster = serving(storage=storage, serving={"replicas": 2}, podMetadata=OWN_LABEL)
    before = contents(cluster)
    limit(cluster, **limits)
    assert cluster.plan().actions != (), "the operator compares its objects as always"
    assert ready(cluster)["reason"] == "Serving"
    assert contents(cluster) == before
    cluster.edit(serving={"maxModelLen": 2048})
    assert ready(cluster)["reason"] != "NotAllowed"
    assert contents(cluster) != before, "an edit of another field takes effect"


def test_replicas_beyond_a_limit_have_no_disruption_budget() -> None:
    cluster = serving(storage={"accessMode": "ReadWriteMany"})
    limit(cluster, **FEW)
    cluster.edit(serving={"replicas": 2})
    assert ready(cluster)["reason"] == "NotAllowed"
    assert list(cluster.each("PodDisruptionBudget")) == []
    limit(cluster)
    assert ready(cluster)["reason"] == "Starting"
    assert len(list(cluster.each("PodDisruptionBudget"))) == 1


def test_a_lost_deployment_is_created_again_under_a_tighter_limit() -> None:
    cluster = serving(podMetadata=OWN_LABEL)
    limit(cluster, **NO_LABELS)
    (name,) = (name for kind, name in cluster.objects if kind == "Deployment")
    controllers.delete(cluster, "Deployment", name, "Foreground")
    assert ready(cluster)["reason"] == "Restarting"
    assert list(cluster.each("Deployment"))
    for _ in range(3):
        controllers.serve(cluster)
        for pod in cluster.each("Pod"):
            if controllers.alive(pod) and "deletionTimestamp" in pod["metadata"]:
                controllers.stop(cluster, pod)
    assert ready(cluster)["reason"] == "Serving"


@pytest.mark.parametrize(
    "edit",
    [
        {"podMetadata": BARE_LABEL},
        {"serving": {"placement": KEYLESS}},
        {"placement": KEYLESS},
        {"priorityClassName": "system-cluster-critical"},
        {"resources": {"serve": {"limits": {"nvidia.com/mig-3g.40gb": "7"}}}},
    ],
    ids=["labels", "tolerations", "own tolerations", "priority", "resources"],
)
def test_an_edit_beyond_a_limit_does_not_reach_serving_pods(edit: Thing) -> None:
    cluster = serving()
    before = contents(cluster)
    cluster.edit(**edit)
    assert ready(cluster)["reason"] == "NotAllowed"
    (condition,) = (e for e in cluster.status["conditions"] if e["type"] == "Serving")
    assert condition["status"] == "True", "the present pods continue to serve"
    assert contents(cluster) == before
    cluster.edit(**dict.fromkeys(edit))
    assert ready(cluster)["reason"] == "Serving"


def test_more_replicas_than_allowed_are_not_started() -> None:
    cluster = serving(storage={"accessMode": "ReadWriteMany"})
    limit(cluster, **FEW)
    cluster.edit(serving={"replicas": 9})
    assert ready(cluster)["reason"] == "NotAllowed"
    (deployment,) = cluster.each("Deployment")
    assert deployment["spec"]["replicas"] == 1


def test_a_new_revision_beyond_a_limit_leaves_the_old_one_serving() -> None:
    cluster = serving(podMetadata=OWN_LABEL)
    before = contents(cluster)
    cluster.edit(training={"seed": 1}, podMetadata=BARE_LABEL)
    assert ready(cluster)["reason"] == "NotAllowed"
    service = next(cluster.each("Service"))
    del cluster.objects["Service", service["metadata"]["name"]]
    assert ready(cluster)["reason"] == "NotAllowed"
    assert not list(cluster.each("Service")), "its labels would violate the limit"
    cluster.edit(podMetadata={"labels": {"app": None}})
    cluster.settle()
    for key, content in before.items():
        assert contents(cluster)[key] == content


def test_suspending_a_refused_build_ends_its_pods() -> None:
    """The build was selected, but never ready; its Deployment keeps its content."""
    cluster = Cluster()
    for stage in ("prepare", "train", "merge"):
        controllers.run(cluster, stage)
    cluster.settle()
    (deployment,) = cluster.each("Deployment")
    labels = copied(deployment["metadata"]["labels"])
    cluster.edit(podMetadata=BARE_LABEL, suspend=True)
    assert ready(cluster)["reason"] == "SuspendedByUser"
    (deployment,) = cluster.each("Deployment")
    assert deployment["spec"]["replicas"] == 0
    assert deployment["metadata"]["labels"] == labels


KEY_OF_ADMINISTRATOR = KEY.public_key.decode()
SIGNED_HUB: Thing = {"sources": ["hf://.*"], "keys": [KEY_OF_ADMINISTRATOR]}


def require(cluster: Cluster, *required: Thing) -> None:
    """Restart the operator with other required signatures."""
    settings = cluster.config.model_dump(mode="json", exclude={"signatures"})
    cluster.config = Settings.model_validate({**settings, "signatures": required})


def requirements(cluster: Cluster) -> Any:
    """Return the signatures that the newest prepare Job verifies."""
    cluster.settle()
    return controllers.request_of(list(cluster.each("Job"))[-1]).signatures


def test_prepare_gets_the_signatures_that_its_sources_need() -> None:
    cluster = Cluster()
    other = {"sources": ["s3://.*"], "keys": [KEY_OF_ADMINISTRATOR]}
    require(cluster, SIGNED_HUB, other, {**SIGNED_HUB, "what": ["adapter"]})
    (found,) = requirements(cluster)
    assert (found.sources, found.keys) == (("hf://.*",), (KEY_OF_ADMINISTRATOR,))


def test_changed_keys_apply_to_the_next_attempt() -> None:
    cluster = Cluster()
    require(cluster, SIGNED_HUB)
    refused = controllers.message("prepare", "failed", reason="SourceNotSigned", message="refused")
    controllers.run(cluster, "prepare", 77, refused)
    assert ready(cluster)["reason"] == "SourceNotSigned"
    # A key for other sources retries nothing.
    require(cluster, SIGNED_HUB, {**SIGNED_HUB, "sources": ["s3://.*"]})
    assert ready(cluster)["reason"] == "SourceNotSigned"
    key = new_key().public_key.decode()
    require(cluster, {**SIGNED_HUB, "keys": [key]})
    (found,) = requirements(cluster)
    assert found.keys == (key,)


def test_required_signatures_stop_nothing_that_runs() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    cluster.settle()
    before = contents(cluster)
    require(cluster, SIGNED_HUB)
    cluster.settle()
    assert contents(cluster) == before


def test_an_image_that_verifies_no_signatures_is_not_run_without_them() -> None:
    request = PrepareStageRequest(
        config="c", work="w", signatures=(RequiredSignature.model_validate(SIGNED_HUB),)
    )
    assert argv_v1.of_prepare(request)[-2:] == ["--signatures", "1"]
    assert "--signatures" not in argv_v1.of_prepare(PrepareStageRequest(config="c", work="w"))
