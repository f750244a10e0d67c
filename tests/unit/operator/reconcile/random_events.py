"""What may happen to a job by chance: edits, ends of pods, steps of those who share its cluster.

A step takes the cluster and a number that chooses what it happens to; one that finds nothing does
nothing.
"""

from collections.abc import Callable

import hypothesis.strategies as st
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing

from finetune_operator.objects import naming

ENDS: dict[str, Callable[[str], tuple[int, str]]] = {
    "completed": lambda stage: (0, controllers.message(stage, gpuSeconds=50.0)),
    "silent": lambda stage: (0, ""),
    "stopped with 0": lambda stage: (0, controllers.message(stage, "stopped")),
    "failed for good": lambda stage: (81, controllers.message(stage, "failed", reason="Diverged")),
    "failed for now": lambda stage: (75, controllers.message(stage, "failed", reason="Transient")),
    "killed": lambda stage: (137, ""),
    "stopped": lambda stage: (143, controllers.message(stage, "stopped", gpuSeconds=20.0)),
}
EDITS = st.one_of(
    # What trains again.
    st.sampled_from(
        [
            *({"training": {"seed": seed}} for seed in (None, 1, 2)),
            *({"training": {"maxSteps": steps, "epochs": steps}} for steps in (None, 5)),
            {"rerun": "a"},
        ]
    ),
    # What merges again, or makes merging needless.
    st.sampled_from(
        [
            *({"merge": {"dtype": dtype}} for dtype in (None, "bfloat16")),
            *({"serving": {"mode": mode}} for mode in (None, "adapter")),
        ]
    ),
    # What rolls the serving pods.
    st.sampled_from(
        [
            {"serving": {"maxModelLen": 1024}},
            {"podMetadata": {"labels": {"example.com/cost-centre": "a-42"}}},
        ]
    ),
    # What gives a failed stage another attempt.
    st.sampled_from(
        [
            *({"storage": {"size": size}} for size in (None, "80Gi")),
            {"runPolicy": {"maxGpuSeconds": 3600}},
            *({"queueName": queue} for queue in (None, "gpu")),
        ]
    ),
    # What repeats nothing.
    st.sampled_from(
        [
            *(
                {"serving": {"enabled": serving}, "merge": {"enabled": merging}}
                for serving, merging in ((True, True), (False, True), (False, False))
            ),
            *({"serving": {"replicas": replicas}} for replicas in (None, 0)),
            {"serving": {"rollout": "FreeGPU"}},
            *({"revisionHistoryLimit": limit} for limit in (None, 0)),
            {"training": {"saveSteps": 7}},
        ]
    ),
    st.sampled_from([{"suspend": value} for value in (True, True, False)]),
)
"""Changes of a spec, each class of edits as likely as another."""


def target(things: list[Thing], index: int) -> Thing | None:
    return things[index % len(things)] if things else None


def pods(cluster: Cluster, phase: str) -> list[Thing]:
    return [pod for pod in cluster.each("Pod") if pod["status"]["phase"] == phase]


def start(cluster: Cluster, index: int) -> None:
    if pod := target(pods(cluster, "Pending"), index):
        controllers.start(cluster, pod)


def finish(cluster: Cluster, index: int, end: str = "completed") -> None:
    running = [pod for pod in pods(cluster, "Running") if stage_of(pod) != "serve"]
    if pod := target(running, index):
        controllers.finish(cluster, pod, *ENDS[end](stage_of(pod)))


def end_deleted(cluster: Cluster, index: int) -> None:
    going = [pod for pod in cluster.each("Pod") if controllers.alive(pod) and deleted(pod)]
    if pod := target(going, index):
        controllers.stop(cluster, pod)


def evict(cluster: Cluster, index: int) -> None:
    if pod := target([pod for pod in cluster.each("Pod") if controllers.alive(pod)], index):
        controllers.evict(cluster, pod)


def sync_jobs(cluster: Cluster, index: int) -> None:
    for job in cluster.each("Job"):
        controllers.sync_job(cluster, job)


def sync_deployments(cluster: Cluster, index: int) -> None:
    for deployment in cluster.each("Deployment"):
        controllers.sync_deployment(cluster, deployment)


def queue(cluster: Cluster, index: int) -> None:
    """Let Kueue admit a Job that it holds back, or take back the admission of one."""
    jobs = [
        job
        for job in cluster.each("Job")
        if stage_of(job) == "train" and not controllers.ended(job) and not deleted(job)
    ]
    if job := target(jobs, index):
        (controllers.admit if job["spec"].get("suspend") else controllers.suspend)(cluster, job)


def meddle(cluster: Cluster, index: int) -> None:
    """Change a child by hand that the operator owns the fields of."""
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


def collect(cluster: Cluster, index: int) -> None:
    controllers.collect(cluster)


def orphan(cluster: Cluster, index: int) -> None:
    """Delete a Job by hand, one that runs where there is one, and leave its pods behind."""
    jobs = sorted(cluster.each("Job"), key=controllers.ended)
    if job := target([job for job in jobs if not controllers.ended(job)] or jobs, index):
        controllers.delete(cluster, "Job", job["metadata"]["name"], "Orphan")


def delete_any(cluster: Cluster, index: int) -> str | None:
    """Delete a child by hand; return its kind."""
    if thing := target([each for each in cluster.objects.values() if not deleted(each)], index):
        controllers.delete(cluster, thing["kind"], thing["metadata"]["name"])
        return str(thing["kind"])
    return None


STEPS = st.tuples(
    st.sampled_from(
        [
            start,
            finish,
            end_deleted,
            evict,
            sync_jobs,
            sync_deployments,
            collect,
            orphan,
            queue,
            meddle,
        ]
    ),
    st.integers(0, 30),
)
"""Steps of kubelets, controllers, Kueue, the garbage collector, and people's hands."""


def stage_of(thing: Thing) -> str:
    """Return the stage that a child is for."""
    return str(thing["metadata"]["labels"].get(naming.STAGE))


def deleted(thing: Thing) -> bool:
    """Tell whether an object is on its way out."""
    return "deletionTimestamp" in thing["metadata"]
