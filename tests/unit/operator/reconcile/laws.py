"""Laws that hold in every history of a job.

``Laws`` observes one cluster from its creation: every plan, every write, and the resulting state.
"""

import math
from collections.abc import Collection, Mapping
from datetime import timedelta

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing, stored
from tests.unit.operator.reconcile import (
    laws_of_backends,
    laws_of_publishing,
    laws_of_serving,
    laws_of_trust,
    laws_of_volumes,
)
from tests.unit.operator.reconcile.card_law import resumes_on_its_card
from tests.unit.operator.reconcile.laws_of_gpus import GPULaws, one_trainer
from tests.unit.operator.reconcile.laws_of_statuses import (
    consistent,
    numbers,
    only_reported,
    prevented,
    well_formed,
)
from tests.unit.operator.reconcile.random_events import deleted, stage_of

from finetune_api.contracts.result import Result
from finetune_operator.actions import Create, Delete
from finetune_operator.objects import naming
from finetune_operator.objects.stages import STAGES, needs_gpu
from finetune_operator.types import Object, Plan, Snapshot


def result_of(pod: Thing) -> str | None:
    """Return the outcome in a pod's termination message."""
    for container in pod["status"].get("containerStatuses", ()):
        result = Result.from_message(container["state"].get("terminated", {}).get("message", ""))
        return None if result is None else result.outcome
    return None


def key_of(job: Thing) -> tuple[str, ...]:
    """Return owner, revision, stage and build of a Job."""
    labels = job["metadata"]["labels"]
    owner = job["metadata"]["ownerReferences"][0]["uid"]
    return (owner, labels[naming.REVISION], labels[naming.STAGE], str(labels.get(naming.BUILD)))


class Laws:
    """The laws, and the history that they need."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.times = (cluster.now, cluster.now)
        """The earliest and the latest time so far."""
        self.skew = timedelta(0)
        """The largest difference between the clocks of operator and API server so far."""
        self.jobs: set[str] = set()
        self.completed: dict[tuple[str, ...], str] = {}
        """Completed stages, with the uid of the volume that contains the artifacts."""
        self.proved: set[tuple[str, ...]] = set()
        self.proved_jobs: set[str] = set()
        """Uids of the Jobs that completed with a result that reports completion."""
        self.attempts: dict[tuple[str, ...], Thing] = {}
        self.wanted: dict[tuple[str, int], str] = {}
        self.lost_volume = False
        self.before: tuple[str, Thing] = ("", {})
        self.backup: Thing = {}
        """The status in a backup, until the operator writes another one."""
        self.unknown: set[str] = set()
        """Uids of the volumes of earlier jobs, for whose files no ledger vouches."""
        self.gpu = GPULaws()

    def of_restored(self, uids: Mapping[str, str]) -> None:
        """What was completed stays completed after a restore. uids: the new ones by the old."""

        def renamed(key: tuple[str, ...]) -> tuple[str, ...]:
            return (uids.get(key[0], key[0]), *key[1:])

        self.proved |= {renamed(key) for key in self.proved}
        self.attempts = {renamed(key): each for key, each in self.attempts.items()}
        self.completed = {
            renamed(key): uids.get(volume, volume) for key, volume in self.completed.items()
        }
        self.gpu.of_restored(uids)
        self.backup = self.cluster.status
        prepared = {
            each["revision"] for each in self.backup.get("revisions", ()) if each.get("volume")
        }
        self.of_forgotten(but=prepared)

    def of_forgotten(self, but: Collection[str] = ()) -> None:
        """From now on, no ledger vouches for the volumes, except for those of some revisions."""
        for volume in self.cluster.each(naming.VOLUME):
            if volume["metadata"]["labels"][naming.REVISION] not in but:
                self.unknown.add(volume["metadata"]["uid"])

    # Laws of a plan.

    def of_plan(self, snapshot: Snapshot, intended: Plan) -> None:
        """A plan creates nothing after a deletion, and the serving build keeps serving."""
        if deleted(dict(snapshot.job)):
            assert not intended.actions
        else:
            self.gpu.of_plan(snapshot, intended)
            laws_of_volumes.of_plan(snapshot, intended)
        if snapshot.job["spec"].get("serving", {}).get("enabled", True):
            laws_of_serving.serving_continues(snapshot, intended)
        laws_of_serving.stopped_only_without_requests(snapshot, intended)
        laws_of_publishing.of_plan(snapshot, intended)
        laws_of_trust.configuration_is_vouched_for(intended)

    def of_rest(self, snapshot: Snapshot, intended: Plan) -> None:
        """A reconcile after completed reconciles changes nothing."""
        assert not any(isinstance(action, Create | Delete) for action in intended.actions)
        assert stored(intended.status) == self.cluster.status
        if not deleted(dict(snapshot.job)) and not only_reported(intended.status):
            self.matches_target(snapshot.job, intended.status)
            laws_of_backends.equal_backend_is_no_edit(self.cluster, snapshot, intended.status)

    def matches_target(self, job: Object, status: Object) -> None:
        """Running Jobs belong to the target, and its configuration and policies exist."""
        paused = job["spec"].get("suspend", False)
        for each in self.cluster.each("Job"):
            if naming.owned_by(job, each) and not controllers.ended(each) and not deleted(each):
                labels = each["metadata"]["labels"]
                assert not paused, each["metadata"]["name"]
                if laws_of_publishing.outlives_an_edit(each, status):
                    continue
                assert labels[naming.REVISION] == status["revision"]
                assert labels.get(naming.BUILD, status["build"]) == status["build"]
                volume = self.cluster.get(naming.VOLUME, f"demo-{status['revision']}")
                if laws_of_publishing.saves_the_model(self.cluster, each):
                    continue
                assert volume is None or not deleted(volume), "its pods could never start"
        if any(each["revision"] == status["revision"] for each in status["revisions"]):
            # A job.json that was deleted after its values were edited cannot be rendered again.
            edited = job["spec"].get("training", {}).get("advanced") or prevented(status)
            assert edited or self.cluster.get("ConfigMap", f"demo-{status['revision']}")
            started = {each["stage"] for one in status["revisions"] for each in one["stages"]}
            policies = {each["metadata"]["name"] for each in self.cluster.each("NetworkPolicy")}
            for stage in STAGES:
                assert stage.name not in started or f"demo-{stage.network}" in policies, started
        if status.get("serving", {}).get("build"):
            assert self.cluster.get("Service", "demo-serve")

    # Laws of writes.

    def of_writes(self, *, late: bool = False) -> None:
        """Compare the states before and after some writes; ``late`` writes were delayed."""
        self.jobs_may_run(late=late)
        self.status_is_sound()

    def jobs_may_run(self, *, late: bool) -> None:
        """No completed stage runs again, and no stage starts without its own volume.

        A stage without a GPU may start after its volume is gone, if a cache is late: its pods wait
        (``controllers.start``), and the operator stops it as soon as it learns of the loss.
        """
        for job in self.cluster.each("Job"):
            if job["metadata"]["uid"] in self.jobs:
                continue
            self.jobs.add(job["metadata"]["uid"])
            if job["metadata"]["uid"] in self.cluster.foreign:
                continue
            owner, revision, *_ = key_of(job)
            if stage_of(job) != "publish":
                assert not self.is_done(key_of(job)), job["metadata"]["name"]
            assert late or self.is_recorded(job), job["metadata"]["name"]
            volume = self.cluster.get("PersistentVolumeClaim", f"demo-{revision}")
            assert volume or late or not needs_gpu(stage_of(job)), job["metadata"]["name"]
            if not late and self.cluster.job:
                resumes_on_its_card(job, self.cluster.status, self.cluster.job["spec"])
            if volume and not late:
                assert volume["metadata"]["ownerReferences"][0]["uid"] == owner
                if volume["metadata"]["uid"] in self.unknown:
                    laws_of_trust.unknown_content_is_deleted(job, self.proved)

    def is_recorded(self, job: Thing) -> bool:
        """Report whether the ledger recorded the attempt of a new Job before its creation."""
        labels = job["metadata"]["labels"]
        return any(
            (attempt["stage"], attempt.get("build"))
            == (labels[naming.STAGE], labels.get(naming.BUILD))
            and str(attempt["attempt"]) == labels[naming.ATTEMPT]
            and attempt["outcome"] == "Starting"
            for revision in self.cluster.status["revisions"]
            if revision["revision"] == labels[naming.REVISION]
            for attempt in revision["stages"]
        )

    def status_is_sound(self) -> None:
        """Compare the last status with the one before it."""
        if self.cluster.job and self.cluster.status.get("conditions"):
            uid = self.cluster.job["metadata"]["uid"]
            self.ledger_goes_forward(uid, self.cluster.status)
            self.gpu.of_status(uid, self.cluster.status)
            # The generation of a restored job starts at 1.
            restored = self.cluster.status is self.backup
            generation = self.cluster.present_job()["metadata"]["generation"]
            well_formed(self.cluster.status, generation=None if restored else generation)
            self.within_bounds(self.cluster.status)
            laws_of_trust.results_are_of_own_jobs(self.cluster, self.proved_jobs)
            if self.before[0] == uid:
                consistent(self.before[1], self.cluster.status, lost_volume=self.lost_volume)
                laws_of_backends.backends_stay(self.before[1], self.cluster.status)
            self.before = (uid, self.cluster.status)
            self.no_revision_without_an_edit(self.cluster.job)

    def pruned_revisions(self, uid: str, status: Thing) -> None:
        """A pruned revision is neither serving nor the target, and can be trained again."""
        known = {each["revision"] for each in status.get("revisions", ())}
        for key in [key for key in self.attempts if key[0] == uid and key[1] not in known]:
            assert key[1] not in (status["revision"], status.get("serving", {}).get("revision"))
            del self.attempts[key]
            self.completed.pop(key, None)

    def is_done(self, key: tuple[str, ...]) -> bool:
        """Report whether a stage has completed on a volume that exists and is not terminating."""
        volume = self.cluster.get(naming.VOLUME, f"demo-{key[1]}")
        here = volume is not None and not deleted(volume)
        return here and self.completed.get(key) == volume["metadata"]["uid"]  # type: ignore[index]

    def ledger_goes_forward(self, uid: str, status: Thing) -> None:
        self.pruned_revisions(uid, status)
        for revision in status.get("revisions", ()):
            for attempt in revision["stages"]:
                stage, build = attempt["stage"], str(attempt.get("build"))
                key = (uid, revision["revision"], stage, build)
                before = self.attempts.get(key, {"attempt": 0, "outcome": None})
                self.attempts[key] = attempt
                if attempt["attempt"] == before["attempt"] and before["outcome"] != "Starting":
                    assert attempt["retryKey"] == before["retryKey"], key
                elif before["outcome"] == "Failed":
                    assert attempt["retryKey"] != before["retryKey"], key
                assert attempt["attempt"] >= before["attempt"], key
                if stage in ("serve", "publish"):
                    # A build that answered before can need another verification, and a model that
                    # was published can be published to further targets.
                    continue
                if attempt.get("reason") == "VolumeLost":
                    assert self.lost_volume, "only a user's deletion causes that"
                    self.completed.pop(key, None)
                if attempt["outcome"] == "Completed":
                    assert key in self.proved, key
                    self.completed[key] = revision.get("volume", "")
                else:
                    assert not self.is_done(key), key
                    self.completed.pop(key, None)
                if attempt.get("reason") in ("ResultMissing", "RetriesExhausted"):
                    name = f"demo-{revision['revision']}-{stage}-{attempt['attempt']}"
                    self.no_result_was_missed(name)

    def no_result_was_missed(self, name: str) -> None:
        job = self.cluster.get("Job", name)
        if job and job["metadata"]["uid"] in self.cluster.foreign:
            return
        ends = [result_of(pod) for pod in controllers.pods_of(self.cluster, job)] if job else []
        assert ends[-1:] not in (["completed"], ["failed"]), name

    def no_revision_without_an_edit(self, job: Thing) -> None:
        """Only an edit makes a job train again; an upgrade does not."""
        revision = self.cluster.status.get("revision")
        # The status in a backup has a generation of the job before the restore.
        if prevented(self.cluster.status) or self.cluster.status is self.backup:
            return
        generation = self.cluster.status["observedGeneration"]
        key = (job["metadata"]["uid"], generation)
        if any(each["revision"] == revision for each in self.cluster.status["revisions"]):
            assert self.wanted.setdefault(key, str(revision)) == revision

    def within_bounds(self, status: Thing) -> None:
        """GPU time is at most the elapsed time, and every number is valid in JSON."""
        now, (earliest, latest) = self.cluster.now, self.times
        self.times = (min(earliest, now), max(latest, now))
        passed = math.ceil((self.times[1] - self.times[0] + self.skew).total_seconds())
        for revision in status.get("revisions", ()):
            # A wrong clock of the operator counts again on each volume.
            lost = revision.get("gpuSecondsLost", 0) if self.skew else 0
            assert revision.get("gpuSeconds", 0) - lost <= passed
        for number in numbers(status):
            assert abs(number) <= 2**53

    # Laws of every moment.

    def of_now(self) -> None:
        """At most one trainer runs."""
        one_trainer(self.cluster)
        self.record_completed_stages()
        self.lost_volume |= self.may_be_collected()

    def may_be_collected(self) -> bool:
        """Report whether a restored claim of the job still has an owner that does not exist."""
        job = self.cluster.job
        return job is not None and any(
            naming.owned_by(job, claim) and controller["uid"] != job["metadata"]["uid"]
            for claim in self.cluster.each(naming.VOLUME)
            if (controller := naming.controller_of(claim)) is not None
        )

    def record_completed_stages(self) -> None:
        """Record the stages whose Job completed with a result that reports completion."""
        for job in self.cluster.each("Job"):
            results = [result_of(pod) for pod in controllers.pods_of(self.cluster, job)]
            if controllers.ended(job) and "completed" in results:
                self.proved.add(key_of(job))
                self.proved_jobs.add(job["metadata"]["uid"])

    # Laws of the end.

    def of_the_end(self) -> None:
        """No job waits for an event that never occurs."""
        if self.cluster.job is None:
            assert all(
                not each["metadata"].get("ownerReferences")
                for each in self.cluster.objects.values()
            )
            return
        found = {each["type"]: each for each in self.cluster.status["conditions"]}
        spec = self.cluster.job["spec"]
        if found["Ready"]["status"] == "False" and "Stalled" not in found:
            assert spec.get("suspend"), found["Ready"]
            assert all(controllers.ended(job) for job in self.cluster.each("Job"))
        serving = spec.get("serving", {})
        if found["Ready"]["status"] == "True" and serving.get("enabled", True):
            idle = found["Ready"]["reason"] == "Idle"
            assert idle == ("idleSince" in self.cluster.status["serving"])
            replicas = 0 if idle else serving.get("replicas", 1)
            laws_of_serving.replicas_serve_the_build(self.cluster, replicas)
