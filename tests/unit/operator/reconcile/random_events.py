"""Random events of a job: edits, terminations of pods, and steps of controllers, queues and users.

Each step takes the cluster and a number that selects an object; it does nothing if no object fits.
"""

import json
from collections.abc import Callable
from datetime import timedelta

import hypothesis.strategies as st
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster, Thing
from tests.support.attacks.forged_revisions import HOSTILE_IMAGE, hostile_configmap
from tests.unit.operator.reconcile.random_publishing import (
    PUBLISHED,
    WORSE,
    WORSE_SEED,
    not_published,
)

from finetune_api.revision_hash import text_digest
from finetune_operator.objects import naming

COMPLETED = "completed"
AUTOMATIC = {"registry/trainer:1": "trl", "registry/trainer:2": "unsloth", HOSTILE_IMAGE: "unsloth"}
"""Image → backend that prepare selects for ``auto``."""


def completed(cluster: Cluster, pod: Thing) -> tuple[int, str]:
    """Return the end of a stage that completed.

    Prepare reports the backend of its revision, and train the evaluation of a worse model for one
    of the seeds.
    """
    stage = stage_of(pod)
    artifacts = {"backend": backend(cluster, pod)} if stage == "prepare" else {}
    if stage == "train" and recipe(cluster, pod).get("seed") == WORSE_SEED:
        artifacts = {"evaluation": WORSE}
    if stage == "publish":
        artifacts = controllers.published(pod)
    return 0, controllers.message(stage, gpuSeconds=50.0, artifacts=artifacts)


def recipe(cluster: Cluster, pod: Thing) -> Thing:
    """Return ``training`` in the job.json of the digest of a pod, empty if it is another one."""
    (container,) = pod["spec"]["containers"]
    found = cluster.get("ConfigMap", f"demo-{pod['metadata']['labels'][naming.REVISION]}") or {}
    text = found.get("data", {}).get("job.json", "")
    if text_digest(text) not in "".join(container["args"]):
        return {}
    training: Thing = json.loads(text)["training"]
    return training


def backend(cluster: Cluster, pod: Thing) -> Thing | None:
    """Return the backend that prepare selects for its image and its recipe."""
    if not (training := recipe(cluster, pod)):
        return None
    (container,) = pod["spec"]["containers"]
    automatic = AUTOMATIC[container["image"]]
    written = training["advanced"]["backend"]
    name = automatic if written == "auto" else written
    return {"name": name, "version": "1.0", "reason": "The image has it.", "automatic": automatic}


NO_MEMORY = "0/1 nodes are available: 1 Insufficient memory, 1 Insufficient nvidia.com/gpu."


ENDS: dict[str, Callable[[str], tuple[int, str]]] = {
    "silent": lambda stage: (0, ""),
    "stopped with 0": lambda stage: (0, controllers.message(stage, "stopped")),
    "terminal": lambda stage: (
        81,
        controllers.message(stage, "failed", reason="Diverged"),
    ),
    "transient": lambda stage: (
        75,
        controllers.message(stage, "failed", reason="Transient"),
    ),
    "another configuration": lambda stage: (
        78,
        controllers.message(stage, "failed", reason="ConfigurationChanged"),
    ),
    "killed": lambda stage: (137, ""),
    "stopped": lambda stage: (143, controllers.message(stage, "stopped", gpuSeconds=20.0)),
}
EDITS = st.one_of(
    # Retrain.
    st.sampled_from(
        [
            *({"training": {"seed": seed}} for seed in (None, 1, 2)),
            *({"training": {"maxSteps": steps, "epochs": steps}} for steps in (None, 5)),
            {"rerun": "a"},
            *(
                {"training": {"advanced": {"backend": name}}}
                for name in (None, "auto", "trl", "unsloth")
            ),
        ]
    ),
    # Merge again, or not at all.
    st.sampled_from(
        [
            *({"merge": {"dtype": dtype}} for dtype in (None, "bfloat16")),
            *({"serving": {"mode": mode}} for mode in (None, "adapter")),
        ]
    ),
    # Roll the serving pods.
    st.sampled_from(
        [
            {"serving": {"maxModelLen": 1024}},
            {"podMetadata": {"labels": {"example.com/cost-centre": "a-42"}}},
        ]
    ),
    # Give a failed stage another attempt.
    st.sampled_from(
        [
            *({"storage": {"size": size}} for size in (None, "80Gi")),
            {"runPolicy": {"maxGpuSeconds": 3600}},
            *({"queueName": queue} for queue in (None, "gpu")),
        ]
    ),
    # Repeat nothing.
    st.sampled_from(
        [
            *(
                {"serving": {"enabled": serving}, "merge": {"enabled": merging}}
                for serving, merging in ((True, True), (False, True), (False, False))
            ),
            *({"serving": {"replicas": replicas}} for replicas in (None, 0)),
            *({"serving": {"rollout": each}} for each in (None, "KeepServing", "FreeGPU")),
            *({"serving": {"releaseAfterSeconds": seconds}} for seconds in (None, 0, 60)),
            *({"serving": {"idle": idle}} for idle in (None, {"afterSeconds": 600})),
            *({"revisionHistoryLimit": limit} for limit in (None, 0)),
            {"training": {"advanced": {"saveSteps": 7}}},
        ]
    ),
    st.sampled_from([{"suspend": value} for value in (True, True, False)]),
    # Another profile, or none, perhaps with another revision.
    st.sampled_from(
        [
            *({"profile": name} for name in (None, "small")),
            *({"profile": "small", "rerun": text} for text in ("b", "c")),
        ]
    ),
    # Publish, again, to other targets, or not at all.
    st.sampled_from(
        [
            {"publish": None},
            *({"publish": targets} for targets in PUBLISHED),
        ]
    ),
)
"""Changes of a spec; every edit class is equally likely."""


def target(things: list[Thing], index: int) -> Thing | None:
    return things[index % len(things)] if things else None


def pods(cluster: Cluster, phase: str) -> list[Thing]:
    return [pod for pod in cluster.each("Pod") if pod["status"]["phase"] == phase]


def start(cluster: Cluster, index: int) -> None:
    if pod := target(pods(cluster, "Pending"), index):
        controllers.start(cluster, pod)


def make_unschedulable(cluster: Cluster, index: int) -> None:
    """Make a pod with a GPU unschedulable, for lack of a GPU or also of memory."""
    pending = [pod for pod in pods(cluster, "Pending") if scheduler.needs_gpu(pod)]
    if pod := target(pending, index):
        scheduler.refuse(cluster, pod, NO_MEMORY if index > 20 else scheduler.NO_GPU)


def finish(cluster: Cluster, index: int, end: str = COMPLETED) -> None:
    running = [pod for pod in pods(cluster, "Running") if stage_of(pod) != "serve"]
    if pod := target(running, index):
        ended = completed(cluster, pod) if end == COMPLETED else ENDS[end](stage_of(pod))
        if end == "terminal" and stage_of(pod) == "publish":
            ended = not_published(pod)
        controllers.finish(cluster, pod, *ended)


def end_deleted(cluster: Cluster, index: int) -> None:
    going = [pod for pod in cluster.each("Pod") if controllers.alive(pod) and deleted(pod)]
    if pod := target(going, index):
        controllers.stop(cluster, pod)


def evict(cluster: Cluster, index: int) -> None:
    if pod := target([pod for pod in cluster.each("Pod") if controllers.alive(pod)], index):
        controllers.evict(cluster, pod)


def overdue(cluster: Cluster, index: int) -> None:
    if job := target([job for job in cluster.each("Job") if not deleted(job)], index):
        controllers.overdue(cluster, job)


def sync_jobs(cluster: Cluster, index: int) -> None:
    for job in cluster.each("Job"):
        controllers.sync_job(cluster, job)


def sync_deployments(cluster: Cluster, index: int) -> None:
    for deployment in cluster.each("Deployment"):
        controllers.sync_deployment(cluster, deployment)


def queue(cluster: Cluster, index: int) -> None:
    """Admit a suspended Job, or suspend an admitted one, like Kueue."""
    jobs = [
        job
        for job in cluster.each("Job")
        if stage_of(job) == "train" and not controllers.ended(job) and not deleted(job)
    ]
    if job := target(jobs, index):
        (controllers.admit if job["spec"].get("suspend") else controllers.suspend)(cluster, job)


def verify(cluster: Cluster, index: int) -> None:
    """Change the outcome that serving pods report: of none, or one of the outcomes."""
    cluster.outcome = (None, "Verified", "Inconclusive", "Skipped")[index % 4]


def request(cluster: Cluster, index: int) -> None:
    """A client sends a request."""
    cluster.last_request = cluster.now


def wake(cluster: Cluster, index: int) -> None:
    """Wake an idle endpoint now, or with a time that was or that will be."""
    if cluster.job:
        seconds = (0, 0, -100, 100)[index % 4]
        cluster.annotate(wake=(cluster.now + timedelta(seconds=seconds)).isoformat())


def change_owned_field(cluster: Cluster, index: int) -> None:
    """Change a field that the operator owns in a child."""
    kinds = ("Deployment", "Service")
    if thing := target([each for kind in kinds for each in cluster.each(kind)], index):
        if thing["kind"] == "Service" and index > 15:
            thing["spec"]["selector"].pop(naming.BUILD, None)
        elif thing["kind"] == "Service":
            thing["spec"]["ports"] = []
        else:
            thing["spec"]["template"]["spec"]["containers"][0]["image"] = "registry/other:1"
        thing["metadata"]["generation"] += 1
        cluster.touch(thing)


def forge(cluster: Cluster, index: int) -> None:
    """Create a ConfigMap that looks like one of the operator's, as a tenant can."""
    if not cluster.job or not cluster.status.get("revision"):
        return
    revision = ("0badbeef", cluster.status["revision"])[index % 2]
    name = ("zz-mine", f"demo-{revision}")[index // 2 % 2]
    if cluster.get("ConfigMap", name) is None:
        body = hostile_configmap(cluster.job, name, revision)
        cluster.foreign.add(cluster.add(body)["metadata"]["uid"])


def replace(cluster: Cluster, index: int) -> None:
    """Delete a ConfigMap of the operator and create another one of its name, or the same."""
    if not cluster.job or not (found := target(list(cluster.each("ConfigMap")), index)):
        return
    labels = found["metadata"]["labels"]
    body = hostile_configmap(
        cluster.job, found["metadata"]["name"], str(labels.get(naming.REVISION))
    )
    if index % 3 == 0:
        body["data"] = dict(found["data"])
    elif index % 3 == 1:
        body["data"] = {**found["data"], "job.json": body["data"]["job.json"]}
    cluster.remove(found)
    cluster.foreign.add(cluster.add(body)["metadata"]["uid"])


def replace_job(cluster: Cluster, index: int) -> None:
    """Delete a Job of the operator and create another one of its name, which reports completion."""
    jobs = [job for job in cluster.each("Job") if stage_of(job) != "train" and not deleted(job)]
    if cluster.job and (job := target(jobs, index)):
        cluster.remove(job)
        copy = cluster.add(job)
        cluster.foreign.add(copy["metadata"]["uid"])
        if index % 2:
            copy["spec"]["template"]["spec"]["containers"][0]["image"] = HOSTILE_IMAGE
        controllers.sync_job(cluster, copy)
        for pod in controllers.pods_of(cluster, copy):
            controllers.start(cluster, pod)
            if pod["status"]["phase"] == "Running":
                controllers.finish(cluster, pod, *completed(cluster, pod))
        controllers.sync_job(cluster, copy)


def change_profile(cluster: Cluster, index: int) -> None:
    """Create, change or delete the profile ``small``, or make it invalid."""
    defaults: Thing | None = (None, {}, {"training": {"seed": 1}}, {"training": {"seeds": 1}})[
        index % 4
    ]
    cluster.profiles.clear()
    if defaults is not None:
        metadata = {"name": "small", "uid": "small", "generation": 1}
        kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneProfile"}
        spec = {"defaults": defaults}
        cluster.profiles["small"] = {**kind, "metadata": metadata, "spec": spec}


def collect(cluster: Cluster, index: int) -> None:
    controllers.collect(cluster)


def orphan(cluster: Cluster, index: int) -> None:
    """Delete a Job, an unfinished one if possible, and orphan its pods."""
    jobs = sorted(cluster.each("Job"), key=controllers.ended)
    if job := target([job for job in jobs if not controllers.ended(job)] or jobs, index):
        controllers.delete(cluster, "Job", job["metadata"]["name"], "Orphan")


STEPS = st.tuples(
    st.sampled_from(
        [
            start,
            make_unschedulable,
            finish,
            end_deleted,
            evict,
            sync_jobs,
            sync_deployments,
            collect,
            orphan,
            queue,
            change_owned_field,
            forge,
            replace,
            replace_job,
            overdue,
            verify,
            request,
            wake,
            change_profile,
        ]
    ),
    st.integers(0, 30),
)
"""Steps of kubelets, controllers, Kueue, the garbage collector, users and administrators."""


def stage_of(thing: Thing) -> str:
    """Return the stage that a child is for."""
    return str(thing["metadata"]["labels"].get(naming.STAGE))


def deleted(thing: Thing) -> bool:
    """Report whether an object is terminating."""
    return "deletionTimestamp" in thing["metadata"]
