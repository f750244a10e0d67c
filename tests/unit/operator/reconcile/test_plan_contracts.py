"""Revisions of an operator whose trainer takes the options of a command line (contract 1).

``contract_1.json`` was written by that operator, at commit 8a526a50: the status after its first
write for a job, and the arguments of the Jobs that it then created.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Crash, Thing, copied
from tests.support.rendered import ADAPTER_SPEC, ADMIN_CONFIG, MAXIMAL_CONFIG, MAXIMAL_SPEC, SETS

from finetune_api.v1alpha1.status.artifacts import Artifacts
from finetune_operator.config import Settings
from finetune_operator.manifests import jobs
from finetune_operator.objects.stages import PIPELINE
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import resolve_target

RECORDED = Path(__file__).with_name("contract_1.json")
WITH_PROXY = MAXIMAL_CONFIG.model_copy(update={"ca_certificates": "a certificate"})
CASES: dict[str, tuple[Thing, Settings]] = {
    "minimal": SETS["minimal"],
    "maximal": ({**MAXIMAL_SPEC, "merge": {"dtype": "auto"}}, WITH_PROXY),
    "adapter": (ADAPTER_SPEC, ADMIN_CONFIG),
}


def started(name: str, **advanced: Any) -> Cluster:
    """Return a cluster whose operator crashed after its first write, that of the status.

    advanced: values of ``training.advanced`` for fields that the spec omits.
    """
    written, config = CASES[name]
    spec: Any = copied(written)
    if advanced:
        training = spec.setdefault("training", {})
        training["advanced"] = {**advanced, **training.get("advanced", {})}
    cluster = Cluster(spec=spec, config=config)
    with pytest.raises(Crash):
        cluster.reconcile(die_before=1)
    return cluster


def arguments(job: Mapping[str, Any]) -> list[str]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return list(container["args"])


def history(cluster: Cluster) -> dict[str, list[str]]:
    """Fail each stage once, retry it, and merge again; return the arguments of all Jobs."""
    found: dict[str, list[str]] = {}

    def settle() -> None:
        cluster.settle()
        found.update({job["metadata"]["name"]: arguments(job) for job in cluster.each("Job")})

    merges = cluster.spec.get("merge", {}).get("enabled", True)
    reported: dict[str, Thing] = {"train": {"largestActivation": 20_000}}
    for stage in ("prepare", "train", *(["merge"] if merges else [])):
        settle()
        controllers.run(cluster, stage, 81, controllers.message(stage, "failed", reason="Failed"))
        cluster.settle()
        cluster.edit(runPolicy={"backoffLimit": 7 if stage == "train" else 8})
        settle()
        text = controllers.message(stage, artifacts=reported.get(stage, {}))
        controllers.run(cluster, stage, text=text)
    if merges:
        controllers.serve(cluster)
        cluster.edit(merge={"dtype": "float16", "base": "original"})
        settle()
    return found


def special(cluster: Cluster) -> dict[str, list[str]]:
    """Return the arguments of stages with a volume of an earlier job, and without records."""
    job = cluster.present_job()
    ledger = Ledger.parse(job["status"]["revisions"])
    target = resolve_target(job, ledger, cluster.config)
    record = ledger.revision(target.revision).model_copy(
        update={"untrusted_volume": "uid", "gpu_seconds_lost": 300, "artifacts": Artifacts()}
    )
    return {
        stage.name: arguments(jobs.render(job, target, stage, 1, record=record))
        for stage in PIPELINE
    }


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """The statuses and arguments of the operator before."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def upgraded(name: str, recorded: Mapping[str, Any]) -> Cluster:
    """Return the cluster after an upgrade, with the status that the operator before wrote."""
    spec, config = CASES[name]
    cluster = Cluster(spec=copied(spec), config=config)
    cluster.present_job()["status"] = copied(recorded[name]["status"])
    return cluster


@pytest.mark.parametrize("name", CASES)
def test_every_stage_of_an_earlier_revision_has_the_arguments_of_its_image(
    name: str, recorded: dict[str, Any]
) -> None:
    """Attempts, retries and merges of other builds that start after the upgrade."""
    assert special(upgraded(name, recorded)) == recorded[name]["special"]
    cluster = upgraded(name, recorded)
    assert history(cluster) == recorded[name]["jobs"]
    assert cluster.revisions == [recorded[name]["status"]["revision"]], "nothing trained again"
    (record,) = cluster.status["revisions"]
    (before,) = recorded[name]["status"]["revisions"]
    # Only the rank is added, which an invalid edit could hide from the pods of an adapter.
    rank = {"loraRank": ADAPTER_SPEC["training"]["lora"]["r"]} if name == "adapter" else {}
    assert record["frozen"] == before["frozen"] | rank


def test_a_model_of_an_earlier_trainer_is_not_moved_to_an_endpoint(
    recorded: dict[str, Any],
) -> None:
    """Its image cannot publish to the volume of one."""
    cluster = upgraded("minimal", recorded)
    controllers.run_all(cluster)
    cluster.settle()
    (service,) = cluster.each("Service")
    served, jobs = service["spec"]["selector"], len(list(cluster.each("Job")))
    metadata = {"name": "chat", "namespace": "default", "uid": "e1", "generation": 1}
    spec = {"model": cluster.spec["model"]}
    cluster.endpoints["chat"] = {"metadata": metadata, "spec": spec}
    cluster.edit(serving={"mode": "shared", "endpointRef": {"name": "chat"}})
    cluster.settle()
    ready = cluster.status["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
    assert "spec.serving.mode" in ready["message"]
    assert "spec.rerun" in ready["message"]
    assert len(list(cluster.each("Job"))) == jobs
    (service,) = cluster.each("Service")
    assert service["spec"]["selector"] == served, "its own pods continue to serve"
    serving = next(each for each in cluster.status["conditions"] if each["type"] == "Serving")
    assert serving["status"] == "True"
    cluster.edit(rerun="1")
    cluster.settle()
    assert len(list(cluster.each("Job"))) == jobs + 1, "a new revision has the present image"


@pytest.mark.parametrize("stage", ["prepare", "train", "merge"])
def test_a_running_stage_of_an_earlier_revision_continues(
    stage: str, recorded: dict[str, Any]
) -> None:
    cluster = upgraded("minimal", recorded)
    for earlier in ("prepare", "train", "merge"):
        if earlier != stage:
            controllers.run(cluster, earlier)
            continue
        cluster.settle()
        controllers.sync(cluster)
        controllers.start(cluster, controllers.pod_of_stage(cluster, stage))
        cluster.settle()
        # The operator restarts, and knows only what is in the cluster.
        cluster.created.clear()
        assert cluster.plan().actions == ()
        return


def test_an_operator_before_contract_2_leaves_a_new_revision_alone() -> None:
    """It reads the frozen configuration like this, and reports what it cannot read."""
    cluster = started("minimal")
    (record,) = cluster.status["revisions"]
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate_json(record["frozen"]["operator"], extra="ignore")
    assert [each["loc"] for each in caught.value.errors()] == [("images", "trainer")]


def test_contract_changes_neither_names_nor_job_json(recorded: dict[str, Any]) -> None:
    """The record was made when checkpointing was on unless the spec turned it off."""
    for name in CASES:
        found = started(name, gradientCheckpointing=True).status
        (before,), (now,) = (status["revisions"] for status in (recorded[name]["status"], found))
        assert now["revision"] == before["revision"]
        assert now["frozen"]["digest"] == before["frozen"]["digest"]
        assert now["frozen"]["jobDigest"] == before["frozen"]["jobDigest"]
