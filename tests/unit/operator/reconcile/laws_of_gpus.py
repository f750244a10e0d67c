"""Laws of the GPUs: of their hand-over, and of the trainers."""

from collections.abc import Mapping
from typing import Any

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing
from tests.unit.operator.reconcile.laws_of_statuses import prevented
from tests.unit.operator.reconcile.random_events import deleted, stage_of

from finetune_operator.objects import naming
from finetune_operator.objects.pods import refused_by_nodes
from finetune_operator.objects.scheduler_message import only_lacks
from finetune_operator.types import Object, Plan, Snapshot

GPU = "nvidia.com/gpu"


class GPULaws:
    """The laws, and the releases that they remember."""

    def __init__(self) -> None:
        self.releases: dict[tuple[str, str], Thing] = {}
        """The recorded release of each revision, by the job's uid."""

    def of_restored(self, uids: Mapping[str, str]) -> None:
        """A restored job remembers the releases of the backup. uids: the new ones by the old."""
        self.releases = {
            (uids.get(uid, uid), revision): release
            for (uid, revision), release in self.releases.items()
        }

    def of_plan(self, snapshot: Snapshot, intended: Plan) -> None:
        """Compare a plan with its snapshot."""
        status, serving = intended.status, snapshot.job["spec"].get("serving", {})
        found = {each["type"]: each for each in status.get("conditions", ())}
        target = status.get("revision")
        if target is None or prevented(status):
            return
        rollout = serving.get("rollout", "Auto")
        record, before = release_of(status, target), release_of(snapshot.job["status"], target)
        trained = found["Trained"]["status"] == "True"
        if found.get("Serving", {}).get("reason") == "GPUReleased" and not trained:
            assert rollout == "FreeGPU" or (rollout == "Auto" and record and "ended" not in record)
            assert found["Ready"]["status"] == "False"
            assert "Stalled" not in found
            assert found["Suspended"]["status"] == "False"
        if record and not before:
            self.may_release(snapshot, target, serving)
        if status.get("serving", {}).get("releasePlannedAt"):
            assert found["Ready"]["reason"] == "Unschedulable"
            assert status["serving"]["releasePlannedAt"] in found["Ready"]["message"]

    def may_release(self, snapshot: Snapshot, revision: str, serving: Object) -> None:
        """A release is announced, needs one replica, and lets the train pod be scheduled."""
        assert serving.get("rollout", "Auto") == "Auto"
        jobs = [each for each in snapshot.jobs if not deleted(dict(each))]
        pods = [
            pod
            for pod in map(dict, snapshot.pods)
            if naming.label(pod, naming.STAGE) == "train"
            and naming.label(pod, naming.REVISION) == revision
            and controllers.alive(pod)
            and not deleted(pod)
            and any(naming.owned_by(job, pod) for job in jobs)
        ]
        status: Any = snapshot.job["status"]
        if any("nodeName" in pod["spec"] for pod in pods):
            # The release continues an earlier release with FreeGPU.
            assert any(each["reason"] == "GPUReleased" for each in status["conditions"])
            return
        assert serving.get("replicas", 1) == 1
        assert any(only_lacks(refused_by_nodes(pod) or "", GPU) for pod in pods)
        announced = status.get("serving", {}).get("releasePlannedAt")
        assert announced or serving.get("releaseAfterSeconds") == 0

    def of_status(self, uid: str, status: Object) -> None:
        """Each revision has at most one release, which ends at most once."""
        known = {each["revision"] for each in status.get("revisions", ())}
        for key in [key for key in self.releases if key[0] == uid and key[1] not in known]:
            del self.releases[key]
        for revision in known:
            before, now = self.releases.get((uid, revision)), release_of(status, revision)
            if before:
                assert now
                assert now["releasedAt"] == before["releasedAt"]
                assert now == before or "ended" not in before
            if now:
                self.releases[uid, revision] = now
            if now and revision != status["revision"]:
                assert "ended" in now, "only the target may have the GPU"


def release_of(status: Object, revision: str) -> Thing | None:
    """Return the recorded release of a revision, without empty fields."""
    for each in status.get("revisions", ()):
        if each["revision"] == revision and each.get("gpuRelease"):
            return {key: value for key, value in each["gpuRelease"].items() if value is not None}
    return None


def one_trainer(cluster: Cluster) -> None:
    """At most one trainer runs."""
    trainers = [
        pod["metadata"]["name"]
        for pod in cluster.each("Pod")
        if stage_of(pod) == "train" and runs_or_may_start(cluster, pod)
    ]
    assert len(trainers) <= 1, trainers


def runs_or_may_start(cluster: Cluster, pod: Thing) -> bool:
    """Report whether a pod runs, or waits only for a node."""
    if pod["status"]["phase"] != "Pending":
        return controllers.alive(pod)
    volumes = [cluster.get(naming.VOLUME, claim) for claim in controllers.claims_of(pod)]
    return all(each is not None and not deleted(each) for each in volumes)
