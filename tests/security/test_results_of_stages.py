"""A compromised pod reports values of other stages, or texts that the status cannot contain."""

from typing import Any

import pytest
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.result import OWN_ARTIFACTS
from finetune_api.v1alpha1.ledger import Artifacts

pytestmark = pytest.mark.finding(14, "results of pods stop the reconciles of a job")

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


def test_each_own_artifact_is_in_the_ledger_or_in_an_attempt() -> None:
    known = {field.alias for field in Artifacts.model_fields.values()} | {"mergedManifest"}
    assert {name for names in OWN_ARTIFACTS.values() for name in names} <= known
