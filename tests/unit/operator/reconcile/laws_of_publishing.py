"""Laws of publishing: nothing leaves too early, or against the gate, and nothing else changes."""

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing

from finetune_operator.actions import Create
from finetune_operator.objects import naming
from finetune_operator.types import Object, Plan, Snapshot


def of_plan(snapshot: Snapshot, intended: Plan) -> None:
    """A publish Job gets only targets that are due, and no revision that it publishes is pruned."""
    for action in intended.actions:
        thing = action.object
        if isinstance(action, Create) and naming.label(thing, naming.STAGE) == "publish":
            allowed_now(snapshot, intended.status, thing)
    kept = {each["revision"] for each in intended.status.get("revisions", ())}
    for revision in snapshot.job.get("status", {}).get("revisions", ()):
        under_way = [
            each
            for each in revision["stages"]
            if each["stage"] == "publish" and each["outcome"] in ("Starting", "Running")
        ]
        ended = under_way and not _job_runs(snapshot, revision["revision"])
        assert not under_way or ended or revision["revision"] in kept


def allowed_now(snapshot: Snapshot, status: Object, job: Object) -> None:
    """Each target of a Job that is created is due by the status."""
    labels = job["metadata"]["labels"]
    revision = next(
        each for each in status["revisions"] if each["revision"] == labels[naming.REVISION]
    )
    done = {
        each["stage"]
        for each in revision["stages"]
        if each["outcome"] == "Completed" and each.get("build") in (None, labels[naming.BUILD])
    }
    assert "train" in done
    assert status["revision"] == revision["revision"]
    assert status["build"] == labels[naming.BUILD]
    assert status["evaluation"]["outcome"] != "Failed"
    assert not snapshot.job["spec"].get("suspend")
    serves = snapshot.job["spec"].get("serving", {}).get("enabled", True)
    (attempt,) = (
        each
        for each in revision["stages"]
        if each["stage"] == "publish" and each["build"] == labels[naming.BUILD]
    )
    for target in snapshot.job["spec"]["publish"]:
        when = target.get("when", "Verified" if serves else "Trained")
        if target["name"] not in attempt["targets"] or when != "Verified":
            continue
        if attempt["outcome"] == "Starting" and _is_new(snapshot, job):
            verified = status["verification"]
            assert verified.get("build") == labels[naming.BUILD]
            assert verified["outcome"] in ("Verified", *target.get("allow", ()))


def outlives_an_edit(job: Thing, status: Object) -> bool:
    """Report whether a Job publishes a revision that is no target any more."""
    labels = job["metadata"]["labels"]
    other = labels[naming.REVISION] != status["revision"]
    return bool(labels[naming.STAGE] == "publish" and other)


def saves_the_model(cluster: Cluster, job: Thing) -> bool:
    """Report whether a Job publishes with a pod that has mounted the volume already."""
    pods = controllers.pods_of(cluster, job)
    publishes = job["metadata"]["labels"][naming.STAGE] == "publish"
    return publishes and any(pod["status"].get("phase") == "Running" for pod in pods)


def _is_new(snapshot: Snapshot, job: Object) -> bool:
    return all(each["metadata"]["name"] != job["metadata"]["name"] for each in snapshot.jobs)


def _job_runs(snapshot: Snapshot, revision: str) -> bool:
    return any(
        naming.label(each, naming.STAGE) == "publish"
        and naming.label(each, naming.REVISION) == revision
        for each in snapshot.jobs
    )
