"""A compromised pod reports values of other stages, or texts that the status cannot contain."""

import itertools
from typing import Any

import pytest
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import IMAGE_IDS, STATUS_SCHEMA, Cluster

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.result import ARTIFACTS
from finetune_operator.objects import naming

pytestmark = pytest.mark.finding(14, "results of pods stop the reconciles of a job")

TRAINER = "registry/trainer:1"
FORGED = "f" * 64
MANIFESTS = ("baseManifest", "datasetManifest", "adapterManifest", "referenceManifest")


def report(cluster: Cluster, stage: str, outcome: str = "completed", **fields: Any) -> None:
    """End the pod of a stage with a result, and its Job."""
    pod = scheduler.pod_of(cluster, stage)
    code = 0 if outcome == "completed" else ExitCode.INVALID_SPEC
    controllers.finish(cluster, pod, code, controllers.message(stage, outcome, **fields))
    controllers.sync(cluster)
    scheduler.settle(cluster, 2)


def trained(**artifacts: Any) -> Cluster:
    """Return a cluster in which the merge pod of a job runs."""
    cluster = Cluster()
    scheduler.settle(cluster, 2)
    report(cluster, "prepare")
    report(cluster, "train", artifacts=artifacts)
    return cluster


def artifacts(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.status["revisions"][0]["artifacts"]
    return found


@pytest.mark.finding(8, "a stage trusts the manifest next to the files")
@pytest.mark.parametrize("outcome", ["completed", "failed"])
@pytest.mark.parametrize("recorded", [True, False])
def test_merge_cannot_replace_the_reference_of_the_training(outcome: str, recorded: bool) -> None:
    """Serving pods compare the model with the reference. The merge pod can write its files."""
    reference = {"referenceManifest": controllers.digest_of("reference")} if recorded else {}
    cluster = trained(**reference)
    before = artifacts(cluster)
    forged = dict.fromkeys(MANIFESTS, FORGED)
    report(cluster, "merge", outcome, artifacts=forged)
    after = artifacts(cluster)
    assert {name: after.get(name) for name in MANIFESTS} == {
        name: before.get(name) for name in MANIFESTS
    }


@pytest.mark.finding(8, "a stage trusts the manifest next to the files")
def test_failed_merge_in_the_name_of_train_replaces_nothing() -> None:
    cluster = trained()
    before = artifacts(cluster)
    pod = scheduler.pod_of(cluster, "merge")
    forged = {"adapterManifest": FORGED, "referenceManifest": FORGED}
    text = controllers.message("train", "failed", artifacts=forged)
    controllers.finish(cluster, pod, ExitCode.INVALID_SPEC, text)
    controllers.sync(cluster)
    scheduler.settle(cluster, 2)
    assert artifacts(cluster) == before


def test_no_two_stages_report_the_same_artifact() -> None:
    fields = [set(model.model_fields) for model in ARTIFACTS.values()]
    for one, other in itertools.combinations(fields, 2):
        assert not one & other


def accepted(cluster: Cluster) -> list[str]:
    """Return the warnings of the status, which the API server must accept."""
    warnings: list[str] = cluster.status["warnings"]
    longest = STATUS_SCHEMA["properties"]["warnings"]["items"]["maxLength"]
    assert all(len(each) <= longest for each in warnings), warnings
    return warnings


@pytest.mark.parametrize("length", [250, 300, 1024, 1025, 3000])
def test_long_warning_of_a_pod_does_not_block_the_status(length: int) -> None:
    cluster = Cluster()
    scheduler.settle(cluster, 2)
    report(cluster, "prepare", warnings=["x" * length])
    warning = accepted(cluster)[0]
    assert warning == ("x" * length)[: len(warning)]
    scheduler.settle(cluster, 2)
    assert accepted(cluster) == [warning], "the warning is not repeated"


def test_names_of_moved_images_are_complete() -> None:
    """Two image names with digests are longer than the bound of a name in a spec."""
    cluster = Cluster()
    images = [f"registry.example.com/team/finetune-trainer@sha256:{each * 64}" for each in "ab"]
    cluster.image_ids[TRAINER] = images[0]
    scheduler.settle(cluster, 2)
    report(cluster, "prepare")
    cluster.image_ids[TRAINER] = images[1]
    report(cluster, "train")
    (warning, *_) = accepted(cluster)
    assert all(image in warning for image in images)
    assert "the chart value trainer.image.digest" in warning
    assert set(IMAGE_IDS) >= {TRAINER}


def test_only_fields_of_the_spec_have_a_default_bound() -> None:
    """The operator does not know such a bound, and the API server rejects the whole status."""
    for name in ("volumeOwners", "warnings"):
        items = STATUS_SCHEMA["properties"][name]["items"]
        assert items.get("maxLength") != 253, name


@pytest.mark.finding(5, "an edit repeats a training that has succeeded")
@pytest.mark.parametrize(
    "edit", [{"runPolicy": {"backoffLimit": 2}}, {"resources": {"train": {"requests": {"cpu": 2}}}}]
)
def test_edit_does_not_repeat_a_stage_whose_pod_has_succeeded(edit: dict[str, Any]) -> None:
    """The Job is complete a moment after its pod. The operator must not delete it before."""
    cluster = Cluster()
    scheduler.settle(cluster, 2)
    report(cluster, "prepare")
    cluster.edit(**edit)
    scheduler.settle(cluster, 2)
    pod = scheduler.pod_of(cluster, "train")
    controllers.finish(cluster, pod, 0, controllers.message("train"))
    cluster.settle()
    controllers.sync(cluster)
    scheduler.settle(cluster, 2)
    attempts = {each["stage"]: each["attempt"] for each in cluster.status["revisions"][0]["stages"]}
    assert attempts == {"prepare": 1, "train": 1, "merge": 1}
    assert naming.label(scheduler.pod_of(cluster, "merge"), naming.STAGE) == "merge"
