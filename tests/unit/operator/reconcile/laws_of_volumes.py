"""Laws of volumes that a user deleted: their models, and the last pods that read them."""

from collections.abc import Iterable

from tests.unit.operator.reconcile.random_events import deleted

from finetune_operator.actions import Apply, Create, Delete, Scale
from finetune_operator.objects import naming
from finetune_operator.types import Object, Plan, Snapshot


def of_plan(snapshot: Snapshot, intended: Plan) -> None:
    """All laws of a plan of a job that is not deleted."""
    no_job_gets_a_terminating_volume(snapshot, intended)
    a_model_is_left(snapshot, intended)
    last_readers_stay(snapshot, intended)
    a_ready_job_has_its_volume(snapshot, intended)


def models(job: Object, status: Object, claims: Iterable[Object]) -> set[str]:
    """Return the revisions whose model can be served: trained, on a volume that can be mounted.

    A revision of which every build failed is not one of them.
    """
    intact = {
        naming.label(each, naming.REVISION)
        for each in claims
        if naming.owned_by(job, each) and not deleted(dict(each))
    }
    found = set()
    for each in status.get("revisions", ()):
        outcomes = {(one["stage"], one["outcome"]) for one in each["stages"]}
        built = {one["build"] for one in each["stages"] if "build" in one}
        failed = {one.get("build") for one in each["stages"] if one["outcome"] == "Failed"}
        usable = ("serve", "Completed") in outcomes or not built or built - failed
        if ("train", "Completed") in outcomes and usable and each["revision"] in intact:
            found.add(each["revision"])
    return found


def terminating(snapshot: Snapshot) -> set[str | None]:
    """Return the revisions whose volume is terminating as far as the snapshot shows."""
    return {
        naming.label(each, naming.REVISION)
        for each in snapshot.volumes
        if naming.owned_by(snapshot.job, each) and deleted(dict(each))
    }


def no_job_gets_a_terminating_volume(snapshot: Snapshot, intended: Plan) -> None:
    """No stage starts on a volume that is terminating; its pod would wait, and then be stopped."""
    for action in intended.actions:
        if isinstance(action, Create) and action.object["kind"] == "Job":
            assert naming.label(action.object, naming.REVISION) not in terminating(snapshot)


def a_model_is_left(snapshot: Snapshot, intended: Plan) -> None:
    """A prune never deletes the last revision whose model can be served."""
    before = models(snapshot.job, snapshot.job["status"], snapshot.volumes)
    doomed = {
        naming.label(action.object, naming.REVISION)
        for action in intended.actions
        if isinstance(action, Delete) and action.object["kind"] == naming.VOLUME
    }
    after = models(snapshot.job, intended.status, snapshot.volumes) - doomed
    recorded = {each["revision"] for each in intended.status.get("revisions", ())}
    pruned = {each for each in before if each not in recorded or each in doomed}
    assert not pruned or after, f"the last model is pruned: {sorted(pruned)}"


def last_readers_stay(snapshot: Snapshot, intended: Plan) -> None:
    """Pods whose volume is terminating end only if the user stops them, or another build serves."""
    lost = terminating(snapshot)
    stopped = snapshot.job["spec"].get("serving", {}).get("replicas") == 0
    served = {
        each.get("build")
        for one in snapshot.job["status"].get("revisions", ())
        for each in one["stages"]
        if (each["stage"], each["outcome"]) == ("serve", "Completed")
    }
    for action in intended.actions:
        if action.object["kind"] != "Deployment":
            continue
        if naming.label(action.object, naming.REVISION) not in lost:
            continue
        assert not isinstance(action, Apply), "other pods could not mount the volume"
        if isinstance(action, Scale):
            assert stopped or naming.label(action.object, naming.BUILD) not in served
            assert action.replicas == 0


def a_ready_job_has_its_volume(snapshot: Snapshot, intended: Plan) -> None:
    """No job is Ready whose model is lost, or will be lost with its last pod."""
    (ready,) = (each for each in intended.status["conditions"] if each["type"] == "Ready")
    if ready["status"] == "True":
        name = f"{snapshot.job['metadata']['name']}-{intended.status['revision']}"
        assert any(
            each["metadata"]["name"] == name and not deleted(dict(each))
            for each in snapshot.volumes
        )
