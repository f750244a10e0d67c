"""A tenant replaces the configuration of a revision, to choose what the operator's pods run."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, Cluster, Refused, Thing, copied
from tests.fakes.kube_client import MemoryKube
from tests.support.attacks.forged_revisions import hostile_configmap, pod_templates
from tests.support.rendered import SETS, children
from tests.support.trainer.workshop import DEADLINE, Server, command, request

from finetune_operator import delays
from finetune_operator.actions import Create
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.kube.errors import ContentConflict
from finetune_operator.kube.recorder import Recorder
from finetune_operator.objects.contents import same_content
from finetune_operator.types import Plan, Snapshot

pytestmark = pytest.mark.finding(2, "a ConfigMap chooses image, command and environment")
STAGES = ("prepare", "train", "merge")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Attack = Callable[[Cluster, Thing], Thing]
"""Returns the tenant's ConfigMap, given that of the operator."""


def forged(cluster: Cluster, name: str) -> Thing:
    """Return a ConfigMap with our labels and owner, and with another configuration."""
    job = cluster.present_job()
    return hostile_configmap(job, name, cluster.plan().status["revision"])


def with_data(**changes: str | None) -> Attack:
    """Return the attack that replaces values in the data of the operator's ConfigMap."""

    def attack(cluster: Cluster, own: Thing) -> Thing:
        body = forged(cluster, own["metadata"]["name"])
        data = {**own["data"], **{key.replace("_", "."): each for key, each in changes.items()}}
        body["data"] = {key: each for key, each in data.items() if each is not None}
        return body

    return attack


REPLACED: dict[str, Attack] = {
    "both documents": lambda cluster, own: forged(cluster, own["metadata"]["name"]),
    "job.json": with_data(job_json='{"training": {"seed": 666}}'),
    "job.json with a space": lambda cluster, own: with_data(job_json=own["data"]["job.json"] + " ")(
        cluster, own
    ),
    "no operator.json": with_data(operator_json=None),
    "no job.json": with_data(job_json=None),
    "a third document": with_data(hostile_json="{}"),
}


def reached(stages: tuple[str, ...]) -> Cluster:
    """Return a cluster whose job has completed some stages, and started the next one."""
    cluster = Cluster()
    for stage in stages:
        controllers.run(cluster, stage)
    return cluster


def operators_configmap(cluster: Cluster) -> Thing:
    """Return the ConfigMap that the operator wrote, or would write."""
    for found in cluster.each("ConfigMap"):
        return found
    (created,) = (
        action.object
        for action in cluster.plan().actions
        if isinstance(action, Create) and action.object["kind"] == "ConfigMap"
    )
    return dict(created)


def place(cluster: Cluster, body: Thing) -> Thing:
    """Put a tenant's ConfigMap in the place of one of its name."""
    found = cluster.get("ConfigMap", body["metadata"]["name"])
    if found is not None:
        cluster.remove(found)
    return cluster.add(body)


def reason(cluster: Cluster) -> str:
    return str(cluster.status["conditions"][0]["reason"])


def templates(cluster: Cluster) -> dict[str, Any]:
    """Return the pod templates of all Jobs and Deployments."""
    return {
        name: each["spec"]["template"]
        for (kind, name), each in cluster.objects.items()
        if kind in ("Job", "Deployment")
    }


def unharmed() -> dict[str, Any]:
    """Return the pod templates of a job without an attack."""
    cluster = Cluster()
    controllers.run_all(cluster)
    return templates(cluster)


@pytest.mark.parametrize("done", range(4), ids=["start", *STAGES])
@pytest.mark.parametrize("name", ["aa-mine", "zz-mine", "demo-0badbeef"])
def test_forged_configmap_of_another_name_changes_nothing(name: str, done: int) -> None:
    cluster = reached(STAGES[:done])
    place(cluster, forged(cluster, name))
    for stage in STAGES[done:]:
        controllers.run(cluster, stage)
    controllers.serve(cluster)
    assert reason(cluster) == "Serving"
    assert templates(cluster) == unharmed()


@pytest.mark.parametrize("done", range(3), ids=["start", "prepare", "train"])
@pytest.mark.parametrize("attack", REPLACED)
def test_no_stage_starts_with_a_replaced_configmap(attack: str, done: int) -> None:
    cluster = reached(STAGES[:done])
    own = operators_configmap(cluster)
    tenants = place(cluster, REPLACED[attack](cluster, own))
    before = set(templates(cluster))
    cluster.settle()
    assert set(templates(cluster)) == before
    assert reason(cluster) == "ConfigurationChanged"
    message = cluster.status["conditions"][0]["message"]
    assert f"Delete ConfigMap {own['metadata']['name']}" in message
    assert {each["type"] for each in cluster.status["conditions"]} >= {"Ready", "Stalled"}

    cluster.remove(tenants)
    for stage in STAGES[done:]:
        controllers.run(cluster, stage)
    controllers.serve(cluster)
    assert reason(cluster) == "Serving"
    assert templates(cluster) == unharmed()
    assert operators_configmap(cluster)["data"] == own["data"]


@pytest.mark.parametrize("done", range(3), ids=["start", "prepare", "train"])
def test_a_forged_operator_json_is_replaced_before_a_stage_starts(done: int) -> None:
    """No pod and no operator reads it, so nothing that ran depends on it."""
    cluster = reached(STAGES[:done])
    own = operators_configmap(cluster)
    settings = forged(cluster, "any")["data"]["operator.json"]
    place(cluster, with_data(operator_json=settings)(cluster, own))
    before = set(templates(cluster))
    cluster.settle()
    assert "Delete ConfigMap" in cluster.status["conditions"][0]["message"], "it is new"
    cluster.wait(delays.REPLACED)
    cluster.settle()
    assert set(templates(cluster)) == before
    controllers.collect(cluster)
    for stage in STAGES[done:]:
        controllers.run(cluster, stage)
    controllers.serve(cluster)
    assert reason(cluster) == "Serving"
    assert templates(cluster) == unharmed()
    assert operators_configmap(cluster)["data"] == own["data"]


@pytest.mark.parametrize("attack", REPLACED)
def test_a_job_that_serves_reads_no_configmap(attack: str) -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    place(cluster, REPLACED[attack](cluster, operators_configmap(cluster)))
    for deployment in list(cluster.each("Deployment")):
        volumes = deployment["spec"]["template"]["spec"]["volumes"]
        assert not [each for each in volumes if "configMap" in each or "projected" in each]
        cluster.remove(deployment)
    controllers.serve(cluster)
    assert reason(cluster) == "Serving"
    assert templates(cluster) == unharmed()


@pytest.mark.parametrize("done", range(4), ids=["start", *STAGES])
def test_a_deleted_configmap_is_rendered_from_the_ledger(done: int) -> None:
    """Also after an upgrade: the images and defaults are those of the revision."""
    cluster = reached(STAGES[:done])
    cluster.settle()
    own = operators_configmap(cluster)
    cluster.remove(own)
    images = {"trainer": "trainer:2", "serving": "vllm:2", "operator": "operator:2"}
    cluster.config = cluster.config.model_validate(
        {"images": images, "defaults": {"training": {"seed": 5}}}
    )
    for stage in STAGES[done:]:
        controllers.run(cluster, stage)
    controllers.serve(cluster)
    assert reason(cluster) == "Serving"
    assert templates(cluster) == unharmed()
    assert operators_configmap(cluster)["data"] == own["data"]


def test_a_configmap_that_cannot_be_rendered_again_starts_no_stage() -> None:
    cluster = reached(("prepare",))
    cluster.settle()
    cluster.edit(training={"advanced": {"saveSteps": 7}})
    cluster.remove(operators_configmap(cluster))
    controllers.run(cluster, "train")
    cluster.settle()
    assert reason(cluster) == "ConfigurationChanged"
    assert "saveSteps" in cluster.status["conditions"][0]["message"]
    assert not list(cluster.each("ConfigMap"))
    cluster.edit(training={"advanced": {"saveSteps": None}})
    controllers.run(cluster, "merge")
    controllers.serve(cluster)
    assert reason(cluster) == "Serving"
    assert templates(cluster) == unharmed()


@pytest.mark.parametrize("attack", REPLACED)
def test_configmap_that_appears_before_the_create_stops_the_plan(attack: str) -> None:
    """Between the list and the create request: the create fails, and no Job follows."""
    cluster = Cluster()
    snapshot = cluster.observe()
    intended = cluster.plan_of(snapshot)
    assert [action.object["kind"] for action in intended.actions][-1] == "Job"
    place(cluster, REPLACED[attack](cluster, operators_configmap(cluster)))
    with pytest.raises(Refused, match="other content"):
        cluster.carry_out(snapshot, intended)
    assert templates(cluster) == {}


async def test_executor_rejects_an_object_of_other_content() -> None:
    cluster = Cluster()
    own = operators_configmap(cluster)
    job = cluster.present_job()
    theirs = forged(cluster, own["metadata"]["name"])
    theirs["metadata"]["namespace"] = job["metadata"]["namespace"]
    kube = MemoryKube(copied(job), theirs)
    planned = Plan(status=job["status"], actions=(Create(object=own),))
    executor = PlanExecutor(kube=kube, recorder=Recorder(kube, instance="pod"))
    with pytest.raises(ContentConflict) as rejected:
        await executor.execute(Snapshot(settings=CONFIG, job=job), planned, NOW, applied={})
    assert rejected.value.reason == "ConfigurationChanged"
    assert f"Delete ConfigMap {own['metadata']['name']}" in str(rejected.value)


def container_of(job: Thing) -> Thing:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return dict(container)


def changing(path: tuple[str | int, ...], value: Any) -> Callable[[Thing], None]:
    """Return a change of a value in the pod of a Job; None as the last step appends."""

    def change(job: Thing) -> None:
        group: Any = job["spec"]["template"]["spec"]
        for step in path[:-1]:
            group = group[step]
        if path[-1] == "+":
            group.append(value)
        else:
            group[path[-1]] = value

    return change


HOSTILE_PODS = {
    "image": changing(("containers", 0, "image"), "registry/hostile:1"),
    "command": changing(("containers", 0, "command"), ["sh", "-c", "true"]),
    "argument": changing(("containers", 0, "args", 0), '{"stage":"train"}'),
    "variable": changing(("containers", 0, "env", "+"), {"name": "LD_PRELOAD", "value": "/x"}),
    "variables of a Secret": changing(
        ("containers", 0, "envFrom"), [{"secretRef": {"name": "payroll-db"}}]
    ),
    "mount": changing(("containers", 0, "volumeMounts", 0, "mountPath"), "/elsewhere"),
    "volume": changing(("volumes", "+"), {"name": "s", "secret": {"secretName": "payroll-db"}}),
    "hook": changing(("containers", 0, "lifecycle"), {"postStart": {"exec": {"command": ["sh"]}}}),
    "second container": changing(("containers", "+"), {"name": "x", "image": "registry/hostile:1"}),
    "init container": changing(("initContainers",), [{"name": "x", "image": "registry/hostile:1"}]),
    "service account": changing(("serviceAccountName",), "deployer"),
    "deprecated service account": changing(("serviceAccount",), "deployer"),
    "token": changing(("automountServiceAccountToken",), True),
    "host network": changing(("hostNetwork",), True),
    "root": changing(("securityContext", "runAsUser"), 0),
    "privileged": changing(("containers", 0, "securityContext", "privileged"), True),
    "memory": changing(("containers", 0, "resources", "limits", "memory"), "1Ti"),
    "node": changing(("nodeName",), "control-plane"),
}


@pytest.mark.parametrize("change", HOSTILE_PODS)
def test_job_with_a_foreign_value_has_other_content(change: str) -> None:
    desired = children(*SETS["minimal"])["job-train"]
    existing = copied(desired)
    assert same_content(desired, existing)
    HOSTILE_PODS[change](existing)
    assert not same_content(desired, existing)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "content",
    ["{}", "another job", "", "not JSON", "a space more"],
    ids=lambda each: each or "empty",
)
def test_pod_rejects_another_job_configuration(
    trainers: dict[str, Server], tmp_path: Path, stage: str, content: str
) -> None:
    """The ConfigMap was replaced after the operator had compared it."""
    (own, frozen) = _own_configuration()
    other = {
        "another job": own.replace('"seed": 3407', '"seed": 666'),
        "a space more": own + " ",
    }.get(content, content)
    ended, result = _run_stage(trainers["trl"], tmp_path, stage, other, frozen["jobDigest"])
    assert ended == 78
    assert (result["outcome"], result["reason"]) == ("failed", "ConfigurationChanged")
    assert frozen["jobDigest"] in result["message"]
    assert "Delete the ConfigMap of the revision" in result["message"]
    assert not (tmp_path / "work").exists()


def test_rejected_configuration_is_retried_after_it_is_correct_again() -> None:
    cluster = reached(("prepare",))
    rejected = controllers.message("train", "failed", reason="ConfigurationChanged")
    controllers.run(cluster, "train", 78, rejected)
    controllers.run(cluster, "train")
    controllers.run(cluster, "merge")
    controllers.serve(cluster)
    assert reason(cluster) == "Serving"


def test_plan_writes_no_pod_of_a_hostile_configmap() -> None:
    """The plan itself, at the moment when the tenant of finding 2 sets suspend to false."""
    cluster = Cluster()
    cluster.edit(suspend=True)
    cluster.settle()
    place(cluster, forged(cluster, "zz-mine"))
    cluster.edit(suspend=False)
    (template,) = pod_templates(cluster.plan()).values()
    (container,) = template["spec"]["containers"]
    assert container["image"] == cluster.config.images.trainer
    assert "hostile" not in str(template).lower()


def _own_configuration() -> tuple[str, Thing]:
    """Return job.json as the operator wrote it, and the record in the ledger."""
    cluster = reached(())
    cluster.settle()
    (revision,) = cluster.status["revisions"]
    return operators_configmap(cluster)["data"]["job.json"], revision["frozen"]


def _run_stage(
    trainer: Server, folder: Path, stage: str, content: str, digest: str
) -> tuple[int | None, Thing]:
    """Run a stage with the arguments of its container; return exit code and result."""
    (folder / "job.json").write_text(content)
    fields = {"build": "0badbeef"} if stage == "merge" else {}
    config = folder / "job.json"
    argument = request(stage, config, folder / "work", config_digest=digest, **fields)
    environment = {
        "FINETUNE_TERMINATION_LOG": str(folder / "result"),
        "FINETUNE_METRICS_PORT": "off",
    }
    (folder / "log").touch()
    process = trainer.start(command, [argument], environment, str(folder / "log"))
    process.join(DEADLINE)
    return process.exitcode, json.loads((folder / "result").read_text())
