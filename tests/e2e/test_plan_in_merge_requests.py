"""The documented jobs of a merge request comment what an edit does to a job that has trained.

`make test` has them with an API server (tests/integration/test_ftj_plan.py). Here, the pipeline has
the rights of docs/how-to/plan-in-merge-requests.md alone, and the status is that of real pods.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.support.local_cluster.target import OPERATOR_NAMESPACE, Cluster
from tests.support.local_cluster.tuning import Tuning, small
from tests.support.merge_request import Repository, documented_jobs

from finetune_api.policy.readable_settings import NAME

pytestmark = pytest.mark.exhaustive

ACCOUNT, CONTEXT, SECONDS = "e2e-pipeline", "plan", 900.0
CATALOG = ("finetuneprofiles.finetune.dev", "finetunebudgets.finetune.dev")


@pytest.fixture
def kubeconfig(cluster: Cluster, workspace: str, tmp_path: Path) -> Iterator[Path]:
    """The kubeconfig of the pipeline."""
    kubectl, account = cluster.kubectl, f"--serviceaccount={workspace}:{ACCOUNT}"

    def bind(role: str, namespace: str, verbs: str, *resources: str) -> None:
        place, prefix = ((f"--namespace={namespace}",), "") if namespace else ((), "cluster")
        rules = (f"--verb={verbs}", *(f"--resource={each}" for each in resources))
        named = (f"--resource-name={NAME}",) if resources == ("configmaps",) else ()
        kubectl.run("create", f"{prefix}role", role, *rules, *named, *place)
        kubectl.run(
            "create", f"{prefix}rolebinding", role, f"--{prefix}role={role}", account, *place
        )

    # Of a killed run.
    _forget_rights(cluster)
    kubectl.run("create", "serviceaccount", ACCOUNT, f"--namespace={workspace}")
    try:
        bind(ACCOUNT, workspace, "get,list", "finetunejobs.finetune.dev")
        bind(ACCOUNT, "", "list", *CATALOG)
        bind(ACCOUNT, OPERATOR_NAMESPACE, "get", "configmaps")
        token = kubectl.run("create", "token", ACCOUNT, f"--namespace={workspace}").strip()
        config = yaml.safe_load(kubectl.kubeconfig.read_text())
        (server,) = config["clusters"]
        context = {"cluster": server["name"], "user": ACCOUNT, "namespace": workspace}
        config["users"] = [{"name": ACCOUNT, "user": {"token": token}}]
        config["contexts"] = [{"name": CONTEXT, "context": context}]
        path = tmp_path / "plan.kubeconfig"
        path.write_text(yaml.safe_dump({**config, "current-context": CONTEXT}))
        yield path
    finally:
        _forget_rights(cluster)


def _forget_rights(cluster: Cluster) -> None:
    for kind in ("role", "rolebinding"):
        cluster.kubectl.delete(f"cluster{kind}", ACCOUNT)
        cluster.kubectl.delete(kind, ACCOUNT, OPERATOR_NAMESPACE)


def test_the_comments_are_about_the_job_in_the_cluster(
    tuning: Tuning, kubeconfig: Path, tmp_path: Path
) -> None:
    def manifest(**changes: object) -> str:
        metadata = {"name": tuning.name}
        kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob"}
        spec = small(serving={"enabled": False}, **changes)
        return yaml.safe_dump({**kind, "metadata": metadata, "spec": spec})

    folder = tmp_path / "repository"
    folder.mkdir()
    repository = Repository(folder, manifest())
    tuning.apply(yaml.safe_load(manifest())["spec"])
    tuning.wait_until("Trained", seconds=SECONDS)
    name = f"{tuning.namespace}/{tuning.name}"
    with documented_jobs(repository, kubeconfig) as run:
        repository.commit({"jobs/support.yaml": manifest(runPolicy={"maxRestarts": 30})})
        for text in run():
            assert f"#### FineTuneJob {name} changes: the operator repeats no work" in text
            assert "| `runPolicy.maxRestarts` | `20` | `30` | `nothing` |" in text
            assert "**limits**: allowed by all limits" in text
            assert text.endswith(f"Compared with the cluster of context {CONTEXT}.\n")
        repository.commit({"jobs/support.yaml": manifest(training={"seed": 7})})
        for text in run():
            assert f"#### FineTuneJob {name} changes: the operator trains a new revision" in text
            assert "| `training.seed` | `3407` | `7` | `retrain` |" in text
            assert "**budget**: no budget applies to namespace" in text
        repository.remove("jobs/support.yaml")
        for text in run():
            assert f"#### FineTuneJob {name} is in no manifest any more" in text
    assert len(tuning.jobs("train")) == 1, "a plan changes nothing"
