"""Retention of volumes and revisions, and the remains of an earlier job of the same name."""

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Refused
from tests.support.reconcile.plan_cases import Case, Step, expected, run_case
from tests.support.reconcile.plan_steps import (
    MERGED,
    NO_SERVING,
    PREPARED,
    SUSPEND,
    TRAINED,
    delete,
    edit,
    run_all,
    running,
    serve,
    settle,
    stop,
    sync,
)

from finetune_api.contracts.exitcodes import ExitCode
from finetune_operator.objects import naming

PREPARING = "Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-"
DONE = "Succeeded+ Finished+ Suspended- DataReady+ Trained+ Merged+ Serving+"
KEEP = ("Apply Deployment demo-b1", "Apply Service demo-serve -> b1")
RETAIN = edit(storage={"deletionPolicy": "Retain"})


def lost(cluster: Cluster) -> None:
    """Delete the present revision's volume as a user does, and let the deletion finish."""
    delete(naming.VOLUME, "demo-R")(cluster)
    for _ in range(3):
        sync(cluster)
        settle(cluster)


def waiting(stage: str) -> Step:
    """Let the pod of the present stage wait, and reconcile."""
    return lambda cluster: (settle(cluster), sync(cluster), settle(cluster))


CASES = {
    "retry-class edit while the pod is pending gives another attempt": Case(
        given=(waiting("prepare"), edit(placement={"nodeSelector": {"gpu": "a10g"}})),
        actions=("Delete Job demo-r1-prepare-1 Foreground",),
        ready="-WaitingForPod",
        conditions=PREPARING,
    ),
    "attempt after an edit of a pending pod starts once that pod is gone": Case(
        given=(
            waiting("prepare"),
            edit(placement={"nodeSelector": {"gpu": "a10g"}}),
            *(settle, sync, stop("prepare")),
        ),
        actions=("Create Job demo-r1-prepare-2",),
        ready="-Preparing",
        conditions=PREPARING,
    ),
    "unbound claim is replaced for another StorageClass": Case(
        given=(
            waiting("prepare"),
            edit(storage={"storageClassName": "fast"}),
            *(settle, sync, stop("prepare")),
        ),
        actions=("Delete PersistentVolumeClaim demo-r1 Background",),
        ready="-WaitingForVolume",
        conditions=PREPARING,
    ),
    "unbound claim is replaced for another size": Case(
        given=(
            waiting("prepare"),
            edit(storage={"size": "20Gi"}),
            *(settle, sync, stop("prepare"), settle, sync),
        ),
        actions=("Create PersistentVolumeClaim demo-r1", "Create Job demo-r1-prepare-2"),
        ready="-Preparing",
        conditions=PREPARING,
    ),
    "volume deleted before its first use is created again": Case(
        given=(waiting("prepare"), delete(naming.VOLUME, "demo-R"), sync),
        actions=("Create PersistentVolumeClaim demo-r1",),
        ready="-Preparing",
        conditions=PREPARING,
    ),
    "orphaned pod that waits for a deleted volume gets one": Case(
        given=(
            waiting("prepare"),
            delete("Job", "demo-R-prepare-1", "Orphan"),
            *(delete(naming.VOLUME, "demo-R"), sync, sync),
        ),
        actions=("Create PersistentVolumeClaim demo-r1",),
        ready="-WaitingForPod",
        conditions=PREPARING,
    ),
    "stage on a terminating volume is stopped": Case(
        given=(PREPARED, running("train"), delete(naming.VOLUME, "demo-R")),
        actions=(
            "Delete Job demo-r1-train-1 Foreground",
            "Delete Job demo-r1-prepare-1 Foreground",
        ),
        ready="-WaitingForVolume",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "lost volume restarts the job from data preparation": Case(
        given=(
            *(PREPARED, running("train"), delete(naming.VOLUME, "demo-R"), settle, sync),
            *(
                lambda cluster: controllers.stop(
                    cluster, controllers.pod_of_stage(cluster, "train")
                ),
            ),
            *(sync, sync),
        ),
        actions=("Create PersistentVolumeClaim demo-r1", "Create Job demo-r1-prepare-2"),
        ready="-Preparing",
        conditions=PREPARING,
    ),
    "volume lost between two stages restarts from data preparation": Case(
        given=(PREPARED, TRAINED, settle, lost, stop("merge")),
        actions=("Create PersistentVolumeClaim demo-r1", "Create Job demo-r1-prepare-2"),
        ready="-Preparing",
        conditions=PREPARING,
    ),
    "finished job does not train again without its volume": Case(
        given=(NO_SERVING, PREPARED, TRAINED, MERGED, settle, lost),
        ready="-VolumeLost",
        conditions="Succeeded+ Finished+ Stalled+ Suspended- DataReady+ Trained+ Merged+",
        says="which held the model, was deleted. To train the model again",
    ),
    "serving job without its volume is VolumeLost": Case(
        given=(
            *(run_all, delete(naming.VOLUME, "demo-R"), delete("Deployment", "demo-B"), sync),
            *(
                lambda cluster: controllers.stop(
                    cluster, controllers.pod_of_stage(cluster, "serve")
                ),
            ),
            *(sync, settle, sync, sync, settle),
        ),
        ready="-VolumeLost",
        conditions="Succeeded+ Finished+ Stalled+ Suspended- DataReady+ Trained+ Merged+ Serving-",
        says="To train the model again on a new volume, set spec.rerun to a new value",
    ),
    "serving continues while its volume is terminating": Case(
        given=(run_all, delete(naming.VOLUME, "demo-R"), sync),
        ready="-VolumeLost",
        conditions="Succeeded+ Finished+ Stalled+ Suspended- DataReady+ Trained+ Merged+ Serving+",
        says="Running pods still mount PersistentVolumeClaim demo-",
    ),
    "deletionPolicy Retain removes the owner of the volume": Case(
        given=(run_all, RETAIN),
        actions=("Patch PersistentVolumeClaim demo-r1 without owner", *KEEP),
        ready="+Serving",
        conditions=DONE,
    ),
    "deletionPolicy Delete adds the owner of the volume": Case(
        given=(run_all, RETAIN, settle, edit(storage={"deletionPolicy": None})),
        actions=("Patch PersistentVolumeClaim demo-r1 with owner", *KEEP),
        ready="+Serving",
        conditions=DONE,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_plan_matches_expected(name: str) -> None:
    case = CASES[name]
    planned, text = run_case(Cluster(), case)
    assert text == expected(case)
    ready = next(each for each in planned.status["conditions"] if each["type"] == "Ready")
    assert case.says in ready["message"]


def revisions(cluster: Cluster) -> dict[str, list[str]]:
    """Return the revisions that have objects, with the kinds of these objects."""
    cluster.settle()
    found: dict[str, set[str]] = {}
    for each in cluster.objects.values():
        if revision := naming.label(each, naming.REVISION):
            found.setdefault(revision, set()).add(each["kind"])
    return {revision: sorted(kinds) for revision, kinds in found.items()}


def finish(cluster: Cluster) -> None:
    """Take the present revision until it serves, or to its end if serving is disabled."""
    for stage in ("prepare", "train", "merge"):
        controllers.run(cluster, stage)
    cluster.settle()
    if cluster.present_job()["spec"].get("serving", {}).get("enabled", True):
        controllers.sync(cluster)
        for pod in list(cluster.each("Pod")):
            if pod["status"]["phase"] == "Pending":
                controllers.start(cluster, pod)
        settle_all(cluster)


def settle_all(cluster: Cluster) -> None:
    for _ in range(12):
        before = cluster.version
        controllers.sync(cluster)
        cluster.settle()
        for pod in list(cluster.each("Pod")):
            if "deletionTimestamp" in pod["metadata"] and controllers.alive(pod):
                controllers.stop(cluster, pod)
        if cluster.version == before:
            return


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_revision_history_limit_retains_as_many_revisions(limit: int) -> None:
    cluster = Cluster()
    cluster.edit(revisionHistoryLimit=limit)
    snapshot = []
    for rerun in ("1", "2", "3", "4"):
        cluster.edit(rerun=rerun)
        finish(cluster)
        snapshot.append(cluster.status["revision"])
    assert sorted(revisions(cluster)) == sorted(snapshot[3 - limit :])
    assert [each["revision"] for each in cluster.status["revisions"]] == snapshot[3 - limit :]


def test_untrained_revisions_are_pruned_before_trained_ones() -> None:
    cluster = Cluster()
    finish(cluster)
    trained = cluster.status["revision"]
    for rerun in ("abandoned", "failed", "new"):
        cluster.edit(rerun=rerun)
        if rerun == "abandoned":
            for step in (PREPARED, running("train")):
                step(cluster)
        if rerun == "failed":
            controllers.run(cluster, "prepare", 65, controllers.message("prepare", "failed"))
            cluster.settle()
        settle_all(cluster)
    finish(cluster)
    assert set(revisions(cluster)) == {trained, cluster.status["revision"]}


def test_a_pruned_revision_loses_its_jobs_and_pods_before_its_volume() -> None:
    cluster = Cluster()
    cluster.edit(revisionHistoryLimit=0)
    for step in (PREPARED, running("train"), edit(rerun="a")):
        step(cluster)
    old = cluster.status["revision"]
    for _ in range(2):
        cluster.settle()
        assert revisions(cluster)[old] == ["ConfigMap", "Job", "PersistentVolumeClaim", "Pod"]
        controllers.sync(cluster)
    controllers.stop(cluster, controllers.pod_of_stage(cluster, "train"))
    settle_all(cluster)
    assert old not in revisions(cluster)
    assert old not in [each["revision"] for each in cluster.status["revisions"]]


def test_a_revert_continues_on_a_volume_that_is_still_mounted() -> None:
    cluster = Cluster()
    cluster.edit(revisionHistoryLimit=0)
    for step in (PREPARED, running("train"), edit(rerun="a")):
        step(cluster)
    old = cluster.status["revisions"][0]["revision"]
    for _ in range(2):
        cluster.settle()
        controllers.sync(cluster)
    cluster.edit(rerun=None)
    controllers.stop(cluster, controllers.pod_of_stage(cluster, "train"))
    settle_all(cluster)
    assert cluster.status["revision"] == old
    (pod,) = filter(controllers.alive, cluster.each("Pod"))
    assert pod["metadata"]["labels"][naming.STAGE] == "train"
    assert "untrustedVolume" not in cluster.status["revisions"][-1]


def test_the_serving_revision_is_retained_until_it_is_replaced() -> None:
    cluster = Cluster()
    cluster.edit(revisionHistoryLimit=0)
    finish(cluster)
    serving = cluster.status["revision"]
    cluster.edit(rerun="a")
    PREPARED(cluster)
    assert "PersistentVolumeClaim" in revisions(cluster)[serving]
    for step in (TRAINED, MERGED, settle, sync):
        step(cluster)
    assert "PersistentVolumeClaim" in revisions(cluster)[serving]
    for pod in list(cluster.each("Pod")):
        if pod["status"]["phase"] == "Pending":
            controllers.start(cluster, pod)
    settle_all(cluster)
    assert set(revisions(cluster)) == {cluster.status["revision"]}


def test_an_edit_back_to_a_retained_revision_makes_it_the_newest() -> None:
    cluster = Cluster()
    for rerun in ("1", "2", "1", "3"):
        cluster.edit(rerun=rerun)
        if rerun == "1" and len(cluster.revisions) > 1:
            settle_all(cluster)
            for pod in list(cluster.each("Pod")):
                if pod["status"]["phase"] == "Pending":
                    controllers.start(cluster, pod)
            settle_all(cluster)
        else:
            finish(cluster)
    first, _, third = cluster.revisions
    assert set(revisions(cluster)) == {first, third}


def test_a_volume_that_outlives_its_job() -> None:
    cluster = Cluster()
    for step in (RETAIN, NO_SERVING, PREPARED, TRAINED, MERGED, settle):
        step(cluster)
    (volume,) = cluster.each(naming.VOLUME)
    assert "ownerReferences" not in volume["metadata"]
    cluster.job = None
    controllers.sync(cluster)
    controllers.sync(cluster)
    assert list(cluster.objects.values()) == [volume]
    cluster.submit()
    with pytest.raises(Refused, match="has another owner"):
        cluster.reconcile()
    cluster.remove(volume)
    cluster.settle()
    (made,) = cluster.each(naming.VOLUME)
    assert made["metadata"]["uid"] != volume["metadata"]["uid"]


def test_a_recreated_job_waits_for_objects_of_the_deleted_one() -> None:
    cluster = Cluster()
    for step in (PREPARED, TRAINED, MERGED, serve):
        step(cluster)
    cluster.job = None
    cluster.submit()
    for kind in ("Job", "PersistentVolumeClaim", "ConfigMap", "Deployment", "Service"):
        planned = cluster.plan()
        assert planned.actions == ()
        ready = planned.status["conditions"][0]
        assert ready["reason"] in ("WaitingForCleanup", "WaitingForVolume"), kind
        cluster.reconcile()
        for each in list(cluster.each(kind)):
            cluster.remove(each)
    assert "NetworkPolicy" in cluster.plan().status["conditions"][0]["message"]
    for each in [*cluster.each("NetworkPolicy"), *cluster.each("Pod")]:
        cluster.remove(each)
    cluster.reconcile()
    assert len(list(cluster.each("Job"))) == 1


def settled_events(cluster: Cluster) -> list[tuple[str, str]]:
    return [(event.type, event.reason) for event in cluster.reconcile().events]


def test_an_external_deletion_is_an_event() -> None:
    cluster = Cluster()
    for step in (PREPARED, running("train"), delete("Job", "demo-R-train-1")):
        step(cluster)
    assert ("Warning", "JobDeleted") in settled_events(cluster)
    assert ("Warning", "JobDeleted") not in settled_events(cluster)
    cluster = Cluster()
    for step in (PREPARED, running("train"), SUSPEND):
        step(cluster)
    assert ("Warning", "JobDeleted") not in settled_events(cluster) + settled_events(cluster)
    cluster = Cluster()
    for step in (PREPARED, settle, sync):
        step(cluster)
    (volume,) = cluster.each(naming.VOLUME)
    cluster.remove(volume)
    first = settled_events(cluster)
    assert ("Warning", "VolumeLost") in first
    assert ("Warning", "VolumeLost") not in settled_events(cluster)


def test_gpu_seconds_of_a_lost_volume_still_count() -> None:
    from finetune_operator.types import PodProgress

    cluster = Cluster()
    cluster.edit(runPolicy={"maxGpuSeconds": 1000})
    for step in (PREPARED, running("train")):
        step(cluster)
    cluster.wait(300)
    cluster.progress = PodProgress(pod="", global_step=3, max_steps=9, gpu_seconds=300.0)
    for step in (settle, delete(naming.VOLUME, "demo-R"), settle, sync):
        step(cluster)
    cluster.progress = None
    controllers.stop(cluster, controllers.pod_of_stage(cluster, "train"))
    settle_all(cluster)
    for step in (PREPARED, running("train")):
        step(cluster)
    assert cluster.status["training"]["gpuSeconds"] == 300
    (job,) = (each for each in cluster.each("Job") if not controllers.ended(each))
    assert controllers.request_of(job).max_gpu_seconds == 700
    cluster.wait(50)
    cluster.progress = PodProgress(pod="", global_step=1, max_steps=9, gpu_seconds=50.0)
    cluster.settle()
    assert cluster.status["training"]["gpuSeconds"] == 350


@pytest.mark.parametrize("code", [0, ExitCode.BUDGET_EXCEEDED], ids=["trained", "failed"])
def test_a_result_of_a_lost_volume_is_not_counted_twice(code: int) -> None:
    cluster = Cluster()
    PREPARED(cluster)
    outcome = "failed" if code else "completed"
    running("train")(cluster)
    cluster.wait(300)
    text = controllers.message("train", outcome, gpuSeconds=300.0)
    controllers.finish(cluster, controllers.pod_of_stage(cluster, "train"), code, text)
    controllers.sync(cluster)
    cluster.settle()
    assert cluster.status["training"]["gpuSeconds"] == 300
    delete(naming.VOLUME, "demo-R")(cluster)
    settle_all(cluster)
    PREPARED(cluster)
    settle_all(cluster)
    assert cluster.status["training"]["gpuSeconds"] == 300


def test_an_orphan_gets_its_volume_only_when_no_other_pod_trains() -> None:
    cluster = Cluster()
    PREPARED(cluster)
    waiting("train")(cluster)
    first = cluster.status["revision"]
    orphan = controllers.pod_of_stage(cluster, "train")
    delete("Job", "demo-R-train-1", "Orphan")(cluster)
    delete(naming.VOLUME, "demo-R")(cluster)
    cluster.edit(training={"seed": 1})
    settle_all(cluster)
    controllers.run(cluster, "prepare")
    cluster.settle()
    sync(cluster)
    (trainer,) = (
        pod for pod in cluster.each("Pod") if controllers.alive(pod) and pod is not orphan
    )
    controllers.start(cluster, trainer)
    cluster.edit(training={"seed": None})
    sync(cluster)
    cluster.settle()
    assert cluster.status["revision"] == first
    assert cluster.get(naming.VOLUME, f"demo-{first}") is None, "the orphan would train as well"

    controllers.stop(cluster, trainer)
    sync(cluster)
    sync(cluster)
    cluster.settle()
    assert cluster.get(naming.VOLUME, f"demo-{first}") is not None


def test_an_orphan_gets_its_volume_although_that_of_another_revision_waits() -> None:
    cluster = Cluster()
    for seed in (1, 2):
        cluster.edit(training={"seed": seed})
        settle_all(cluster)
        controllers.run(cluster, "prepare")
        waiting("train")(cluster)
        delete("Job", "demo-R-train-1", "Orphan")(cluster)
        delete(naming.VOLUME, "demo-R")(cluster)
    settle_all(cluster)
    orphans = [pod for pod in cluster.each("Pod") if controllers.alive(pod)]
    assert [pod["metadata"]["ownerReferences"] for pod in orphans] == [[], []]
    present = [each["metadata"]["name"] for each in cluster.each(naming.VOLUME)]
    assert present == [f"demo-{cluster.status['revision']}"]
