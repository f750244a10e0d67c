"""Jobs that were restored from a backup, with new uids of the FineTuneJob and its claims."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Crash, Refused, Thing, copied
from tests.support.reconcile.plan_cases import Case, Step, expected, run_case
from tests.support.reconcile.plan_steps import (
    MERGED,
    NO_MERGE,
    PREPARED,
    SUSPEND,
    TRAINED,
    edit,
    run_all,
    running,
    serve,
    settle,
)

from finetune_operator.actions import Create
from finetune_operator.objects import naming

RETAIN = edit(storage={"deletionPolicy": "Retain"})


def restored(**how: Any) -> Step:
    return lambda cluster: controllers.restore(cluster, **how)


def without_claims(cluster: Cluster) -> None:
    for claim in list(cluster.each(naming.VOLUME)):
        cluster.remove(claim)


def without_volume(cluster: Cluster) -> None:
    """Remove the claims, and the Jobs and pods that use them."""
    for each in list(cluster.objects.values()):
        if each["kind"] in ("Job", "Pod", naming.VOLUME):
            cluster.remove(each)


STAGES = ("Create NetworkPolicy demo-prepare", "Create NetworkPolicy demo-work")
CONFIGURED = (*STAGES, "Create NetworkPolicy demo-serve", "Create ConfigMap demo-r1")
SERVED = ("Apply Deployment demo-b1", "Apply Service demo-serve -> b1")
OWNED = "Patch PersistentVolumeClaim demo-r1 with owner"
PREPARING = "Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-"
TRAINING = "Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-"
TRAINED_BEFORE = "Suspended- DataReady+ Trained+ Merged+ Serving-"
CASES = {
    "finished job serves again and repeats no stage": Case(
        given=(run_all, settle, restored()),
        actions=(OWNED, *CONFIGURED, *SERVED),
        ready="-Restarting",
        conditions=f"Succeeded+ Reconciling+ {TRAINED_BEFORE}",
    ),
    "claim with the owner in the backup gets the new owner": Case(
        given=(run_all, settle, restored(owners=True)),
        actions=(OWNED, *CONFIGURED, *SERVED),
        ready="-Restarting",
        conditions=f"Succeeded+ Reconciling+ {TRAINED_BEFORE}",
    ),
    "claim that outlives its job gets no owner": Case(
        given=(RETAIN, run_all, settle, restored()),
        actions=(OWNED.replace("with ", "without "), *CONFIGURED, *SERVED),
        ready="-Restarting",
        conditions=f"Succeeded+ Reconciling+ {TRAINED_BEFORE}",
    ),
    "job without serving is still completed": Case(
        given=(NO_MERGE, PREPARED, TRAINED, settle, restored()),
        actions=(OWNED, *STAGES, CONFIGURED[-1]),
        ready="+Completed",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+",
    ),
    "interrupted training continues on the same volume": Case(
        given=(PREPARED, running("train"), restored()),
        actions=(OWNED, *STAGES, CONFIGURED[-1], "Create Job demo-r1-train-2"),
        ready="-Training",
        conditions=TRAINING,
    ),
    "merge follows a training in the backup": Case(
        given=(PREPARED, TRAINED, settle, restored()),
        actions=(OWNED, *STAGES, CONFIGURED[-1], "Create Job demo-r1-merge-2"),
        ready="-Merging",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-",
    ),
    "paused job starts nothing": Case(
        given=(PREPARED, SUSPEND, settle, restored()),
        actions=(OWNED, STAGES[0], CONFIGURED[-1]),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained? Merged? Serving-",
    ),
    "first build serves again while the second revision is trained": Case(
        given=(run_all, edit(training={"seed": 5}), PREPARED, running("train"), restored()),
        actions=(
            "Patch PersistentVolumeClaim demo-r1 with owner",
            "Patch PersistentVolumeClaim demo-r2 with owner",
            *CONFIGURED[:-1],
            "Create ConfigMap demo-r2",
            "Create Job demo-r2-train-2",
            *reversed(SERVED),
        ),
        ready="-Training",
        conditions=TRAINING,
    ),
    "training without its volume restarts from data preparation": Case(
        given=(PREPARED, running("train"), restored(), without_claims),
        actions=(
            *STAGES,
            CONFIGURED[-1],
            "Create PersistentVolumeClaim demo-r1",
            "Create Job demo-r1-prepare-2",
        ),
        ready="-Preparing",
        conditions=PREPARING,
    ),
    "finished job without its volume is not trained again": Case(
        given=(run_all, settle, restored(), without_claims),
        actions=CONFIGURED,
        ready="-VolumeLost",
        conditions=f"Succeeded+ Finished+ Stalled+ {TRAINED_BEFORE}",
    ),
    "job without a status uses a claim with the label": Case(
        given=(run_all, settle, restored(status=False, reuse=True)),
        actions=(STAGES[0], CONFIGURED[-1], OWNED, "Create Job demo-r1-prepare-1"),
        ready="-Preparing",
        conditions=PREPARING,
    ),
    "claim that outlives its job is used without an owner": Case(
        given=(RETAIN, run_all, settle, restored(status=False, reuse=True)),
        actions=(
            STAGES[0],
            CONFIGURED[-1],
            OWNED.replace("with ", "without "),
            "Create Job demo-r1-prepare-1",
        ),
        ready="-Preparing",
        conditions=PREPARING,
    ),
    "job without a status is a new job": Case(
        given=(run_all, settle, restored(status=False), without_claims),
        actions=(
            STAGES[0],
            CONFIGURED[-1],
            "Create PersistentVolumeClaim demo-r1",
            "Create Job demo-r1-prepare-1",
        ),
        ready="-Preparing",
        conditions=PREPARING,
    ),
}


def adopt(cluster: Cluster) -> Thing:
    """Restore a finished job without its status, and allow it to use the claim."""
    for step in (run_all, settle, restored(status=False, reuse=True)):
        step(cluster)
    (claim,) = cluster.each(naming.VOLUME)
    return claim


def is_untrusted(cluster: Cluster) -> bool:
    """Report whether the prepare pod is told that the content of the volume is unknown."""
    (job,) = [each for each in cluster.each("Job") if "-prepare-" in each["metadata"]["name"]]
    return bool(controllers.request_of(job).untrusted_volume)


def test_a_claim_with_the_label_is_used_with_unknown_content() -> None:
    cluster = Cluster()
    claim = adopt(cluster)
    cluster.settle()
    (record,), job = cluster.status["revisions"], cluster.present_job()
    assert is_untrusted(cluster)
    assert record["untrustedVolume"] == claim["metadata"]["uid"]
    assert "volume" not in record
    assert naming.owned_by(job, claim)
    assert claim["metadata"]["labels"][naming.JOB_UID] == job["metadata"]["uid"]
    assert naming.REUSE not in claim["metadata"]["labels"]
    assert cluster.status["volumeOwners"] == [job["metadata"]["uid"]]
    run_all(cluster)
    assert cluster.status["conditions"][0]["reason"] == "Serving"
    assert cluster.status["revisions"][0]["volume"] == claim["metadata"]["uid"]


@pytest.mark.parametrize("write", range(6))
def test_a_crash_during_the_adoption_leaves_the_content_unknown(write: int) -> None:
    cluster = Cluster()
    claim = adopt(cluster)
    with contextlib.suppress(Crash):
        cluster.reconcile(die_before=write)
    cluster.settle()
    assert is_untrusted(cluster)
    assert naming.owned_by(cluster.present_job(), claim)


def test_every_attempt_at_preparation_treats_the_content_as_unknown() -> None:
    cluster = Cluster()
    adopt(cluster)
    cluster.settle()
    (first,) = cluster.each("Job")
    cluster.remove(first)
    cluster.settle()
    (second,) = cluster.each("Job")
    assert second["metadata"]["name"].endswith("-prepare-2")
    assert is_untrusted(cluster)


def test_a_smaller_claim_is_grown() -> None:
    cluster = Cluster()
    claim = adopt(cluster)
    cluster.edit(storage={"size": "90Gi"})
    cluster.settle()
    assert claim["spec"]["resources"]["requests"]["storage"] == "90Gi"


def without_label(claim: Thing, key: str) -> None:
    del claim["metadata"]["labels"][key]


FORBIDDEN: dict[str, Callable[[Thing], object]] = {
    "no label": lambda claim: without_label(claim, naming.REUSE),
    "another value": lambda claim: claim["metadata"]["labels"].update({naming.REUSE: "all"}),
    "no uid of an earlier job": lambda claim: without_label(claim, naming.JOB_UID),
    "another revision": lambda claim: claim["metadata"]["labels"].update({naming.REVISION: "r9"}),
    "a controller": lambda claim: claim["metadata"].update(
        {"ownerReferences": [{"kind": "Other", "name": "x", "uid": "y", "controller": True}]}
    ),
}


@pytest.mark.parametrize("how", FORBIDDEN)
def test_no_other_claim_is_adopted(how: str) -> None:
    cluster = Cluster()
    claim = adopt(cluster)
    FORBIDDEN[how](claim)
    before = copied(claim)
    with pytest.raises(Refused, match="has another owner"):
        cluster.settle()
    assert claim == before
    assert list(cluster.each("Job")) == []


@pytest.mark.parametrize("labelled", [False, True], ids=["unlabelled", "labelled"])
def test_a_job_was_deleted_before_it_owned_its_restored_claims(labelled: bool) -> None:
    cluster = Cluster()
    run_all(cluster)
    controllers.restore(cluster)
    cluster.job = None
    controllers.collect(cluster)
    if labelled:
        controllers.allow_reuse(cluster)
    cluster.submit()
    with contextlib.nullcontext() if labelled else pytest.raises(Refused, match="another owner"):
        cluster.settle()
    assert bool(list(cluster.each("Job"))) == labelled


def test_a_finished_job_with_a_status_adopts_no_claim() -> None:
    """Its own volume is lost; it does not train again."""
    cluster = Cluster()
    for step in (run_all, settle, restored(reuse=True)):
        step(cluster)
    cluster.status["volumeOwners"] = ["another"]
    (claim,) = cluster.each(naming.VOLUME)
    before = copied(claim)
    cluster.settle()
    assert cluster.status["conditions"][0]["reason"] == "VolumeLost"
    assert claim == before


def test_the_content_of_a_restored_claim_is_unknown_before_preparation_has_completed() -> None:
    cluster = Cluster()
    for step in (running("prepare"), restored()):
        step(cluster)
    cluster.settle()
    assert is_untrusted(cluster)
    (claim,) = cluster.each(naming.VOLUME)
    assert cluster.status["revisions"][0]["untrustedVolume"] == claim["metadata"]["uid"]


@pytest.mark.parametrize("pause", [False, True])
def test_a_restored_claim_is_unknown_if_the_ledger_in_the_backup_is_older(pause: bool) -> None:
    """A backup can contain a status that was written before the claim was created."""
    cluster = Cluster()
    cluster.reconcile()
    cluster.status["revisions"] = []
    restored()(cluster)
    if pause:
        # A plan that starts no stage already takes the claim over.
        cluster.edit(suspend=True)
        cluster.settle()
        cluster.edit(suspend=False)
    cluster.settle()
    assert is_untrusted(cluster)
    (claim,) = cluster.each(naming.VOLUME)
    assert cluster.status["revisions"][0]["untrustedVolume"] == claim["metadata"]["uid"]


def test_the_owner_in_the_backup_is_recorded_until_its_claim_is_taken_over() -> None:
    cluster = Cluster()
    cluster.reconcile()
    cluster.status["revisions"] = []
    restored()(cluster)
    cluster.edit(suspend=True)
    with contextlib.suppress(Crash):
        cluster.reconcile(die_before=1)
    (claim,) = cluster.each(naming.VOLUME)
    job = cluster.present_job()
    assert claim["metadata"]["labels"][naming.JOB_UID] != job["metadata"]["uid"]
    assert naming.owned_by(job, claim)


@pytest.mark.parametrize("paused", [False, True])
def test_a_claim_in_place_of_a_lost_one_is_unknown(paused: bool) -> None:
    """Only the claim was restored, or another client created one with its labels."""
    cluster = Cluster()
    for step in (PREPARED, running("train")):
        step(cluster)
    (claim,) = cluster.each(naming.VOLUME)
    if paused:
        cluster.edit(suspend=True)
        cluster.settle()
    without_volume(cluster)
    if paused:
        cluster.settle()
    kept = {key: claim["metadata"][key] for key in ("name", "labels")}
    other = cluster.add({**claim, "metadata": kept})
    if paused:
        cluster.edit(suspend=False)
    cluster.settle()
    assert is_untrusted(cluster)
    assert cluster.status["revisions"][0]["untrustedVolume"] == other["metadata"]["uid"]


def test_a_limit_of_restarts_does_not_hide_the_loss_of_the_volume() -> None:
    cluster = Cluster()
    cluster.edit(runPolicy={"maxRestarts": 0})
    for step in (PREPARED, running("train")):
        step(cluster)
    (claim,) = cluster.each(naming.VOLUME)
    without_volume(cluster)
    cluster.add({**claim, "metadata": {key: claim["metadata"][key] for key in ("name", "labels")}})
    cluster.settle()
    assert cluster.status["conditions"][0]["reason"] == "TooManyRestarts"
    cluster.edit(runPolicy={"maxRestarts": 5})
    cluster.settle()
    assert is_untrusted(cluster)


def test_only_preparation_starts_with_an_unknown_claim() -> None:
    """After a loss, training starts again on the claim of the second preparation."""
    cluster = Cluster()
    for step in (PREPARED, running("train")):
        step(cluster)
    without_volume(cluster)
    for step in (settle, PREPARED, running("train")):
        step(cluster)
    (record,) = cluster.status["revisions"]
    assert [each["outcome"] for each in record["stages"]] == ["Completed", "Running"]
    assert "untrustedVolume" not in record


def test_a_new_claim_in_place_of_an_unknown_one_is_known() -> None:
    cluster = Cluster()
    adopt(cluster)
    cluster.settle()
    controllers.sync(cluster)
    without_volume(cluster)
    cluster.settle()
    assert not is_untrusted(cluster)
    assert "untrustedVolume" not in cluster.status["revisions"][0]


def test_a_new_claim_has_no_unknown_content() -> None:
    cluster = Cluster()
    for step in (running("prepare"), restored(), without_claims):
        step(cluster)
    cluster.settle()
    assert not is_untrusted(cluster)


@pytest.mark.parametrize("name", CASES)
def test_plan(name: str) -> None:
    case = CASES[name]
    assert run_case(Cluster(), case)[1] == expected(case)


def test_the_status_names_the_uid_in_the_backup_until_the_job_owns_its_claims() -> None:
    cluster = Cluster()
    for step in (run_all, settle):
        step(cluster)
    uids, before = controllers.restore(cluster), cluster.status
    (old,), new = before["volumeOwners"], cluster.present_job()["metadata"]["uid"]
    assert uids[old] == new
    with pytest.raises(Crash):
        cluster.reconcile(die_before=1)
    assert cluster.status["volumeOwners"] == [old, new]
    cluster.settle()
    assert cluster.status["volumeOwners"] == [new]
    (record,), (claim,) = cluster.status["revisions"], cluster.each(naming.VOLUME)
    assert record["volume"] == claim["metadata"]["uid"] == uids[before["revisions"][0]["volume"]]
    (owner,) = claim["metadata"]["ownerReferences"]
    assert owner["uid"] == claim["metadata"]["labels"][naming.JOB_UID] == new


@pytest.mark.parametrize("write", range(9))
def test_a_second_restore_after_a_crash_loses_nothing(write: int) -> None:
    """The second backup may be older than the status that follows the change of the claim."""
    cluster = Cluster()
    for step in (run_all, settle):
        step(cluster)
    for _ in range(3):
        controllers.restore(cluster)
        with contextlib.suppress(Crash):
            cluster.reconcile(die_before=write)
    serve(cluster)
    cluster.settle()
    assert cluster.status["conditions"][0]["reason"] == "Serving"
    assert list(cluster.each("Job")) == []


@pytest.mark.parametrize("owners", [False, True])
@pytest.mark.parametrize("write", range(9))
def test_a_crash_during_the_first_reconciles_loses_nothing(write: int, owners: bool) -> None:
    cluster = Cluster()
    for step in (PREPARED, TRAINED, MERGED, serve, settle):
        step(cluster)
    jobs = [each["attempt"] for each in cluster.status["revisions"][0]["stages"][:3]]
    controllers.restore(cluster, owners=owners)
    with contextlib.suppress(Crash):
        cluster.reconcile(die_before=write)
    serve(cluster)
    cluster.settle()
    assert cluster.status["conditions"][0]["reason"] == "Serving"
    assert [each["attempt"] for each in cluster.status["revisions"][0]["stages"][:3]] == jobs
    assert list(cluster.each("Job")) == []


def test_a_claim_that_is_restored_later_is_found() -> None:
    cluster = Cluster()
    for step in (run_all, settle):
        step(cluster)
    controllers.restore(cluster)
    (claim,) = cluster.each(naming.VOLUME)
    cluster.remove(claim)
    cluster.settle()
    assert cluster.status["conditions"][0]["reason"] == "VolumeLost"
    cluster.add(claim)
    serve(cluster)
    cluster.settle()
    assert cluster.status["conditions"][0]["reason"] == "Serving"
    assert list(cluster.each("Job")) == []


@pytest.mark.parametrize("how", ["no status", "another uid in the status"])
def test_a_claim_of_a_uid_that_the_status_does_not_name_is_not_used(how: str) -> None:
    cluster = Cluster()
    for step in (run_all, settle):
        step(cluster)
    controllers.restore(cluster, status=how != "no status")
    if how != "no status":
        cluster.status["volumeOwners"] = ["another"]
    (claim,) = cluster.each(naming.VOLUME)
    before = copied(claim)
    with contextlib.suppress(Refused):
        cluster.settle()
    assert claim == before
    assert not any(each["kind"] in ("Job", "Deployment") for each in cluster.objects.values())


def test_stages_start_only_in_the_namespace_of_the_backup() -> None:
    """job.json contains the namespace, and its digest is in the ledger."""
    cluster = Cluster()
    for step in (PREPARED, running("train")):
        step(cluster)
    controllers.restore(cluster)
    cluster.present_job()["metadata"]["namespace"] = "another"
    planned = cluster.plan()
    assert planned.status["conditions"][0]["reason"] == "ConfigurationChanged"
    created = [each.object["kind"] for each in planned.actions if isinstance(each, Create)]
    assert "Job" not in created
    assert "ConfigMap" not in created
