"""Backup and restore, as in docs/how-to/backup.md: of a namespace, of the CRD, and of etcd.

The tests have a control plane of their own, because they stop it and delete its CRD.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import kubelet
from tests.fakes.controllers import request_of
from tests.integration import etcd_backup
from tests.support.api_server import controlplane
from tests.support.api_server.controlplane import ControlPlane, Servers, has, wait_until
from tests.support.api_server.namespace import Namespace, train_has_run
from tests.support.api_server.operatorprocess import operator
from tests.support.api_server.scenarios import ScenarioRunner, all_complete
from tests.support.variants import variants

from finetune_operator.objects import naming

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/finetunejobs.finetune.dev"
CHILDREN = ("jobs", "pods", "deployments", "services", "networkpolicies")
SILENCE = "from finetune_operator.kube import client; client.SILENCE_SECONDS = 5.0"
"""Shortens the time after which an operator reopens a watch that is silent. If the revision of etcd
is lower than before, all watches are silent."""


class Recovery:
    """A control plane with the controller manager that can be stopped and started again."""

    def __init__(self, servers: Servers) -> None:
        self.servers, self._stack = servers, ExitStack()
        self.start()

    def start(self) -> None:
        self.plane: ControlPlane = self._stack.enter_context(self.servers.running())
        controlplane.install_crd(self.plane)
        self._stack.enter_context(controlplane.controller_manager(self.plane))

    def stop(self) -> None:
        self._stack.close()

    def places(self, *names: str) -> dict[str, Namespace]:
        """Create a namespace for each name."""
        return {name: Namespace(self.plane, self.plane.namespace(name)) for name in names}


@pytest.fixture(scope="module")
def recovery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recovery]:
    found = Recovery(Servers.prepare(tmp_path_factory.mktemp("recovery")))
    yield found
    found.stop()


class Backup:
    """The FineTuneJob and the claims of a namespace, as ``kubectl get -o yaml`` returns them."""

    def __init__(self, place: Namespace) -> None:
        self.place, self.job = place, place.job()
        self.claims = place.items("persistentvolumeclaims")

    def restore(self, *, status: bool = True, claims: bool = True, reuse: bool = False) -> None:
        """Create the objects without their uids and owners.

        status, claims: whether to restore them, too. reuse: whether another job of the name may
        use the claims.
        """
        marks = {naming.REUSE: naming.REUSE_DOWNLOADS} if reuse else {}
        for claim in self.claims if claims else ():
            metadata = claim["metadata"]
            kept = {"name": metadata["name"], "labels": {**metadata["labels"], **marks}}
            body = {"metadata": kept, "spec": claim["spec"]}
            self.place.plane.post(self.place.path("persistentvolumeclaims"), body)
        created = self.place.submit(spec=self.job["spec"])
        if status:
            path = self.place.path("finetunejobs", "demo") + "/status"
            self.place.plane.put(path, {**created, "status": self.job["status"]})


def attempts(job: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of the latest attempt of each stage that is a Job."""
    (record,) = job["status"]["revisions"]
    return {each["stage"]: each["attempt"] for each in record["stages"] if each["stage"] != "serve"}


def names(place: Namespace) -> list[str]:
    """Return stage and attempt of the Jobs of a namespace."""
    return sorted(each["metadata"]["name"].split("-", 2)[-1] for each in place.items("jobs"))


def serves_again(runner: ScenarioRunner, name: str) -> bool:
    """Report whether a restored job serves. The restored status says so from the beginning."""
    job = runner.jobs.get((name, "demo"), {"metadata": {"uid": ""}})
    owners = job.get("status", {}).get("volumeOwners")
    return runner.reason(name) == "Serving" and owners == [job["metadata"]["uid"]]


def reuse(place: Namespace) -> None:
    """Allow the job to use the claim of an earlier job, as with ``kubectl label``."""
    (claim,) = place.items("persistentvolumeclaims")
    path = place.path("persistentvolumeclaims", claim["metadata"]["name"])
    labels = {naming.REUSE: naming.REUSE_DOWNLOADS}
    place.plane.merge(path, {"metadata": {"labels": labels}})


def all_gone(places: Mapping[str, Namespace]) -> bool:
    return not any(place.items(kind) for place in places.values() for kind in CHILDREN)


def test_a_namespace_is_restored(recovery: Recovery, tmp_path: Path) -> None:
    """The restored objects have new uids, as after a restore by Velero."""
    places = recovery.places("finished", "unfinished", "without-status", "reused")
    without_status = ("without-status", "reused")

    def status_of(pod: dict[str, Any]) -> dict[str, Any]:
        trains = kubelet.stage_of(pod) == "train"
        if trains and pod["metadata"]["namespace"] == "unfinished":
            return kubelet.running()
        return all_complete(pod)

    for place in places.values():
        place.submit()
    with operator(recovery.plane, tmp_path) as running:
        runner = ScenarioRunner(plane=recovery.plane, pod_status=status_of)
        runner.until(
            "three jobs serve, and one is trained",
            lambda: (
                {runner.reason(name) for name in ("finished", *without_status)} == {"Serving"}
                and runner.reason("unfinished") == "Training"
                and train_has_run(runner.jobs["unfinished", "demo"])
            ),
        )
        running.settled()
    backups = {name: Backup(place) for name, place in places.items()}
    for name in places:
        recovery.plane.delete(f"/api/v1/namespaces/{name}")
    wait_until(
        "the namespaces are deleted",
        lambda: not any(has(recovery.plane, f"/api/v1/namespaces/{name}") for name in places),
    )
    for name, backup in backups.items():
        recovery.plane.namespace(name)
        backup.restore(status=name not in without_status, reuse=name == "reused")

    with operator(recovery.plane, tmp_path):
        runner = ScenarioRunner(plane=recovery.plane)
        runner.until(
            "the jobs with a status or a label serve, and the other one has a conflict",
            lambda: (
                all(serves_again(runner, name) for name in ("finished", "unfinished", "reused"))
                and runner.reason("without-status") == "NameConflict"
            ),
        )
        (claim,) = places["without-status"].items("persistentvolumeclaims")
        assert "ownerReferences" not in claim["metadata"]
        message = places["without-status"].condition("Ready")["message"]
        assert claim["metadata"]["name"] in message
        assert "set its label finetune.dev/reuse to downloads" in message
        assert names(places["without-status"]) == []
        reuse(places["without-status"])
        runner.until("the job uses the claim", lambda: serves_again(runner, "without-status"))
    assert names(places["finished"]) == []
    # The Jobs of completed stages are not created again; the interrupted one has another attempt.
    assert names(places["unfinished"]) == ["merge-1", "train-2"]
    for name in without_status:
        assert names(places[name]) == ["merge-1", "prepare-1", "train-1"]
        (record,) = places[name].job()["status"]["revisions"]
        (claim,) = places[name].items("persistentvolumeclaims")
        assert record["untrustedVolume"] == record["volume"] == claim["metadata"]["uid"]
        assert naming.REUSE not in claim["metadata"]["labels"]
        for job in places[name].items("jobs"):
            untrusted = getattr(request_of(job), "untrusted_volume", False)
            assert untrusted == (kubelet.stage_of(job) == "prepare")
    for name in places:
        job, (claim,) = places[name].job(), places[name].items("persistentvolumeclaims")
        assert job["metadata"]["uid"] != backups[name].job["metadata"]["uid"]
        assert claim["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
        assert claim["metadata"]["labels"][naming.JOB_UID] == job["metadata"]["uid"]
        assert job["status"]["revisions"][0]["volume"] == claim["metadata"]["uid"]


def test_the_crd_is_deleted_and_restored(recovery: Recovery, tmp_path: Path) -> None:
    places = recovery.places("kept-volume", "lost-volume")
    policies = {"kept-volume": "Retain", "lost-volume": "Delete"}
    for name, place in places.items():
        place.submit(spec={"storage": {"deletionPolicy": policies[name]}})
    with operator(recovery.plane, tmp_path) as running:
        runner = ScenarioRunner(plane=recovery.plane)
        runner.until(
            "both jobs serve", lambda: {runner.reason(name) for name in places} == {"Serving"}
        )
        running.settled()
        backups = {name: Backup(place) for name, place in places.items()}
        recovery.plane.delete(CRD)
        wait_until("the CRD is deleted", lambda: not has(recovery.plane, CRD))
        wait_until("all children are deleted", lambda: all_gone(places))
        lost = places["lost-volume"]
        wait_until(
            "the claim with an owner is deleted",
            lambda: not lost.items("persistentvolumeclaims"),
        )
        # Without the CRD, there is nothing to watch: the next process waits for it.
        assert running.process.wait(controlplane.PATIENCE_SECONDS) == 1
    (kept,) = places["kept-volume"].items("persistentvolumeclaims")
    assert kept["metadata"]["uid"] == backups["kept-volume"].claims[0]["metadata"]["uid"]
    controlplane.install_crd(recovery.plane)
    for backup in backups.values():
        backup.restore(claims=False)

    with operator(recovery.plane, tmp_path):
        runner = ScenarioRunner(plane=recovery.plane)
        runner.until(
            "the job with a volume serves, and the other one reports the loss",
            lambda: (
                serves_again(runner, "kept-volume") and runner.reason("lost-volume") == "VolumeLost"
            ),
        )
    for name, place in places.items():
        assert names(place) == [], name
        assert attempts(place.job()) == attempts(backups[name].job)


@pytest.mark.parametrize(
    "bump", variants([False, True], kept=[False]), ids=["same revision", "bumped revision"]
)
def test_etcd_is_restored_during_a_training(recovery: Recovery, tmp_path: Path, bump: bool) -> None:
    """bump: ``etcdutl snapshot restore --bump-revision --mark-compacted``."""
    suffix = "bumped" if bump else "same"
    trained, retried, later = (f"{each}-{suffix}" for each in ("trained", "retried", "later"))
    places = recovery.places(trained, retried, later)
    ends: set[str] = set()
    """The namespaces whose trainings end."""

    def status_of(pod: dict[str, Any]) -> dict[str, Any] | None:
        if pod["metadata"]["namespace"] not in places:
            return None
        stays = kubelet.stage_of(pod) == "train" and pod["metadata"]["namespace"] not in ends
        return kubelet.running() if stays else all_complete(pod)

    for name in (trained, retried):
        places[name].submit()
    with ExitStack() as stack:
        running = stack.enter_context(operator(recovery.plane, tmp_path, prelude=SILENCE))
        runner = ScenarioRunner(plane=recovery.plane, pod_status=status_of)
        runner.until(
            "both jobs are trained",
            lambda: all(
                runner.reason(name) == "Training" and train_has_run(runner.jobs[name, "demo"])
                for name in (trained, retried)
            ),
        )
        running.settled()
        copy = etcd_backup.back_up(recovery.plane, recovery.servers)
        # After the backup, one job is served, one has another attempt, and one is new.
        ends.add(trained)
        for pod in places[trained].items("pods"):
            if kubelet.stage_of(pod) == "train":
                kubelet.report(places[trained], pod, kubelet.completed("train"))
        (job,) = (
            each for each in places[retried].items("jobs") if kubelet.stage_of(each) == "train"
        )
        path = places[retried].path("jobs", job["metadata"]["name"])
        places[retried].plane.delete(f"{path}?propagationPolicy=Background")
        places[later].submit()
        runner.until(
            "all jobs are newer than the backup",
            lambda: (
                runner.reason(trained) == "Serving"
                and attempts(runner.jobs[retried, "demo"])["train"] == 2
                and train_has_run(runner.jobs[retried, "demo"])
                and runner.reason(later) == "Training"
            ),
        )
        running.settled()
        recovery.stop()
        etcd_backup.restore(recovery.servers, copy, bump=bump)
        recovery.start()
        wait_until(
            "the operator ends, because the API server has an older state",
            lambda: running.process.poll() is not None,
        )
        assert "etcd was restored from a backup" in running.log.read_text()
        running = stack.enter_context(operator(recovery.plane, tmp_path))
        ends.add(retried)
        trainers: dict[str, set[str]] = defaultdict(set)
        runner = ScenarioRunner(plane=recovery.plane, pod_status=status_of)

        def serve() -> bool:
            for pod in runner.pods:
                if kubelet.stage_of(pod) == "train":
                    trainers[pod["metadata"]["namespace"]].add(pod["metadata"]["uid"])
            return {runner.reason(name) for name in (trained, retried)} == {"Serving"}

        runner.until("both jobs serve", serve)
        assert running.process.poll() is None
    for name in (trained, retried):
        assert names(places[name]) == ["merge-1", "prepare-1", "train-1"], name
        assert len(trainers[name]) == 1, "the pod in the backup is the only trainer"
    assert places[later].items("finetunejobs") == []
    assert places[later].items("persistentvolumeclaims") == []
