"""A scheduler that assigns GPUs to pods, and a kubelet that reports states of serving pods."""

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing

from finetune_api.contracts.exitcodes import ExitCode
from finetune_operator.objects import naming

NO_GPU = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


def needs_gpu(pod: Thing) -> bool:
    """Report whether a pod requests a GPU."""
    return any(
        "nvidia.com/gpu" in container["resources"].get("limits", {})
        for container in pod["spec"]["containers"]
    )


def schedule(cluster: Cluster, gpus: int) -> None:
    """Run pending pods for which a GPU is free, oldest first; mark the others unschedulable.

    A terminating pod releases its GPU immediately.
    """
    for pod in list(cluster.each("Pod")):
        if controllers.alive(pod) and "deletionTimestamp" in pod["metadata"]:
            controllers.stop(cluster, pod)
    controllers.sync(cluster)
    taken = sum(
        pod["status"]["phase"] == "Running" and needs_gpu(pod) for pod in cluster.each("Pod")
    )
    for pod in cluster.each("Pod"):
        if pod["status"]["phase"] != "Pending":
            continue
        if needs_gpu(pod) and taken >= gpus:
            refuse(cluster, pod)
        else:
            taken += needs_gpu(pod)
            controllers.start(cluster, pod)
    controllers.sync(cluster)


def refuse(cluster: Cluster, pod: Thing, message: str = NO_GPU) -> None:
    """Mark a pod unschedulable, by default because no node has a free GPU."""
    if pod["status"].get("conditions"):
        return
    pod["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": cluster.stamp(),
        }
    ]
    cluster.touch(pod)


def settle(cluster: Cluster, gpus: int, rounds: int = 12) -> None:
    """Run operator, controllers and scheduler until nothing changes."""
    for _ in range(rounds):
        before = cluster.version
        cluster.settle()
        controllers.sync(cluster)
        schedule(cluster, gpus)
        if cluster.version == before:
            return
    raise AssertionError("the cluster does not settle")


def pod_of(cluster: Cluster, stage: str, build: str | None = None) -> Thing:
    """Return the only live pod of a stage, and of a build if it is given."""
    (found,) = [
        pod
        for pod in cluster.each("Pod")
        if pod["metadata"]["labels"][naming.STAGE] == stage
        and build in (None, pod["metadata"]["labels"].get(naming.BUILD))
        and controllers.alive(pod)
        and "deletionTimestamp" not in pod["metadata"]
    ]
    return found


def running(cluster: Cluster, stage: str) -> list[str]:
    """Return the builds (revisions of a train pod) whose pods of a stage run."""
    label = naming.REVISION if stage == "train" else naming.BUILD
    return [
        pod["metadata"]["labels"][label]
        for pod in cluster.each("Pod")
        if pod["metadata"]["labels"][naming.STAGE] == stage and pod["status"]["phase"] == "Running"
    ]


def mismatch(cluster: Cluster, pod: Thing) -> None:
    """Let the verification of a pod fail with a mismatch; its container restarts."""
    text = controllers.message(
        "verify", "failed", reason="VerificationFailed", message="distance 0.31, tolerance 0.02"
    )
    end = {"exitCode": int(ExitCode.VERIFICATION_FAILED), "reason": "Error", "message": text}
    pod["status"]["phase"] = "Pending"
    pod["status"]["containerStatuses"] = [
        {"name": "vllm", "state": {"running": {}}},
        {"name": "verify", "restartCount": 1, "lastState": {"terminated": end}},
    ]
    cluster.touch(pod)


def invalid_key(cluster: Cluster, pod: Thing) -> None:
    """Let the verifier of a pod reject the API key of the endpoint."""
    text = controllers.message("verify", "failed", reason="AccessDenied", message="a line break")
    end = {"exitCode": int(ExitCode.ACCESS_DENIED), "reason": "Error", "message": text}
    pod["status"]["phase"] = "Pending"
    pod["status"]["containerStatuses"] = [{"name": "verify", "state": {"terminated": end}}]
    cluster.touch(pod)


def crash(cluster: Cluster, pod: Thing, times: int) -> None:
    """Let vLLM exit repeatedly."""
    pod["status"]["phase"] = "Pending"
    pod["status"]["containerStatuses"] = [
        {
            "name": "vllm",
            "restartCount": times - 1,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
        }
    ]
    cluster.touch(pod)
