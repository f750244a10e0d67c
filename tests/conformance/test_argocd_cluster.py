"""Argo CD deploys FineTuneJobs from Git to the local cluster: real kubelet, trainer and vLLM.

The tests run in this order: each commit edits the same job, so that two trainings suffice for all
of them. The folder examples/ is another Application, in a namespace whose quota allows no pods. The
last test reads the record of all versions of all jobs.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
from tests.conformance import argocd, local_cluster, writes
from tests.conformance.argocd import APPLICATIONS, NAMESPACE, Repository
from tests.conformance.deployed_job import TRAINED_SECONDS, Application, DeployedJob
from tests.support.api_server.controlplane import wait_until
from tests.support.api_server.manifest_files import EXAMPLES, example_jobs
from tests.support.local_cluster import pods, recorder
from tests.support.local_cluster.fixtures import cluster, lane  # noqa: F401  (pytest finds fixtures by name)
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.recorder import WATCHED
from tests.support.local_cluster.target import Cluster, namespaces
from tests.support.local_cluster.tuning import Tuning, small

PLACE, JOB = "e2e-argocd", "small"
EXAMPLES_PLACE, EXAMPLES_NAME = "e2e-argocd-examples", "examples"
CONTROLLER, USER, OPERATOR = "argocd-controller", "kubectl-patch", "finetune-operator"
# Enough steps to pause the training.
LONGER = {"maxSteps": 20}

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def deployed(
    cluster: Cluster,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DeployedJob]:
    """Argo CD on the local cluster, with an empty repository."""
    folder, kubectl = tmp_path_factory.mktemp("argocd"), cluster.kubectl
    plane = local_cluster.api_server(kubectl, folder)
    kinds = WATCHED | {"Application": APPLICATIONS}
    _remove_argocd(cluster)
    with namespaces(cluster, PLACE, EXAMPLES_PLACE):
        quota = {"metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}}}
        plane.post(f"/api/v1/namespaces/{EXAMPLES_PLACE}/resourcequotas", quota)
        stay = Task(script="stay.py", image=cluster.operator_image())
        with (
            pods.started(cluster, PLACE, stay) as caller,
            argocd.running(plane, folder) as argo,
            recorder.recording(kubectl, kinds, whole=True) as record,
        ):
            pods.wait_until_ready(cluster, PLACE, caller)
            yield DeployedJob(
                argo=argo,
                repository=Repository.create(folder / "repository"),
                application=Application(record=record, name=JOB),
                tuning=Tuning(cluster=replace(cluster, record=record), namespace=PLACE, name=JOB),
                caller=caller,
            )
    _remove_argocd(cluster)


def _remove_argocd(cluster: Cluster) -> None:  # noqa: F811
    remove = ("delete", "--ignore-not-found", "--timeout=120s")
    cluster.kubectl.run(*remove, "namespace", NAMESPACE)
    cluster.kubectl.run(*remove, "crd", "-l", "app.kubernetes.io/part-of=argocd")


def test_examples_are_synced(deployed: DeployedJob) -> None:
    """All examples in one Application; the operator writes a status to each of them."""
    repository = Repository.create(deployed.repository.folder.with_name("examples"))
    folder = EXAMPLES[0].parent
    files = {
        f"examples/{each.name}": each.read_text() for each in folder.iterdir() if each.is_file()
    }
    commit = repository.commit(files)
    deployed.argo.deploy(EXAMPLES_NAME, repository, EXAMPLES_PLACE, "examples")
    examples = replace(deployed.application, name=EXAMPLES_NAME)

    def reconciled() -> bool:
        jobs = examples.record.present("FineTuneJob", EXAMPLES_PLACE)
        return len(jobs) == len(_examples()) and all(
            each.get("status", {}).get("observedGeneration") == 1 for each in jobs
        )

    deployed.until("the operator reconciles each example", reconciled)
    deployed.until("the examples are synced", lambda: examples.reports(commit))


def test_health_is_progressing_until_the_endpoint_answers(deployed: DeployedJob) -> None:
    deployed.push(small())
    deployed.until_health("Healthy")
    assert deployed.application.healths(deployed.commits[-1])[:2] == ["Progressing", "Healthy"]
    wait_until("the endpoint answers", deployed.answers, TRAINED_SECONDS)


def test_commit_trains_a_revision_while_the_old_one_answers(deployed: DeployedJob) -> None:
    first = deployed.revision()
    deployed.push(small(training=LONGER))
    deployed.tuning.wait_for_pod("train", seconds=TRAINED_SECONDS)
    assert deployed.answers()
    assert deployed.revision() == first
    healths = deployed.application.healths
    deployed.until(
        "the Application is Progressing",
        lambda: healths(deployed.commits[-1])[:1] == ["Progressing"],
    )


def test_actions_pause_and_resume_the_training(deployed: DeployedJob) -> None:
    first = deployed.revision()
    deployed.act("suspend", suspend=True)
    deployed.until_health("Suspended")
    paused = deployed.tuning.status()["revision"]
    assert paused != first
    deployed.until("no train pod runs", lambda: not deployed.trains())
    assert deployed.answers()
    assert deployed.revision() == first
    deployed.act("resume", suspend=False)
    deployed.until_health("Healthy")
    assert deployed.revision() == paused
    assert deployed.answers()


def test_failed_change_is_degraded_and_the_old_revision_answers(deployed: DeployedJob) -> None:
    serving = deployed.revision()
    trained = len(deployed.tuning.jobs("train"))
    deployed.push(small(training=LONGER, dataset={"source": "hf://demo/none"}))
    deployed.until_health("Degraded")
    shown = "The change failed, build "
    wait_until("Argo CD shows it", lambda: deployed.message().startswith(shown))
    assert "is still serving: DatasetNotFound" in deployed.message()
    assert deployed.revision() == serving
    assert deployed.answers()
    deployed.push(small(training=LONGER))
    deployed.until_health("Healthy")
    assert deployed.revision() == serving
    assert len(deployed.tuning.jobs("train")) == trained


def test_self_heal_reverts_an_edit_in_the_cluster(deployed: DeployedJob) -> None:
    serving, before = deployed.revision(), deployed.tuning.current()
    assert before is not None
    deployed.edit(maxSteps=99)
    reverted = before["metadata"]["generation"] + 2
    deployed.until(
        "Argo CD reverts the edit",
        lambda: (deployed.tuning.current() or before)["metadata"]["generation"] == reverted,
    )
    deployed.until_health("Healthy")
    assert deployed.revision() == serving


def test_prune_deletes_the_job_and_its_children(deployed: DeployedJob) -> None:
    tuning = deployed.tuning
    deployed.commit(None)
    deployed.until(
        "the job and its children are deleted",
        lambda: (
            deployed.application.reports(deployed.commits[-1])
            and tuning.current() is None
            and not tuning.children()
        ),
    )


def test_argo_cd_and_the_operator_never_write_the_same_field(deployed: DeployedJob) -> None:
    """In no version of a job; and each spec is one that this file caused, once."""
    expected = {(EXAMPLES_PLACE, name): [spec] for name, spec in _examples().items()}
    expected[PLACE, JOB] = deployed.specs
    versions = {key: found for key, found in deployed.versions().items() if key in expected}
    assert versions.keys() == expected.keys()
    for key, found in versions.items():
        owned = writes.by_manager(found)
        parts = {manager: {path[0] for path in paths} for manager, paths in owned.items()}
        assert parts.pop(OPERATOR) == {"f:status"}, key
        assert parts[CONTROLLER] == {"f:metadata", "f:spec"}, key
        assert not any("f:status" in each for each in parts.values()), key
        assert _changes([each["spec"] for each in found]) == expected[key], key
        assert found[-1]["metadata"]["generation"] == len(expected[key]), key
        # The operator adds no label, annotation or finalizer.
        assert len(_changes([_metadata(each) for each in found])) == 1, key
    # Argo CD's API server wrote the actions.
    owned = writes.by_manager(versions[PLACE, JOB])
    (server,) = owned.keys() - {CONTROLLER, USER, OPERATOR}
    assert owned[server] == {("f:spec", "f:suspend")}
    assert owned[USER] == {("f:spec", "f:training", "f:maxSteps")}
    # Argo CD synced each commit once, and no status made an example differ from Git.
    history = deployed.argo.status(JOB)["history"]
    assert [each["revision"] for each in history] == deployed.commits
    assert len(deployed.argo.status(EXAMPLES_NAME)["history"]) == 1
    examples = replace(deployed.application, name=EXAMPLES_NAME)
    states = [each["sync"]["status"] for each in examples.statuses()]
    assert "OutOfSync" not in states[states.index("Synced") :]


def _examples() -> dict[str, Object]:
    """Return the spec of each job in the examples, by name."""
    return {each["metadata"]["name"]: each["spec"] for each in example_jobs()}


def _changes(values: list[Any]) -> list[Any]:
    """Return the values without those that equal the one before."""
    return [each for each, _ in groupby(values)]


def _metadata(job: Object) -> list[Any]:
    return [job["metadata"].get(name) for name in ("labels", "annotations", "finalizers")]
