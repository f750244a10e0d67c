"""Controllers of a cluster in memory: Jobs, Deployments, kubelet, garbage collector.

Each function is one step of one controller, so tests can insert other steps anywhere.
"""

import hashlib
import json
from typing import Any, Literal

from tests.fakes.apiserver import Cluster, Thing, copied

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.provenance import file_list
from finetune_api.contracts.provenance.attestation import MANIFEST, opened
from finetune_api.contracts.result import MANIFESTS, Result
from finetune_api.contracts.stage_request import StageRequest, parse
from finetune_operator.manifests.jobs import CONTAINER
from finetune_operator.objects import endpoints, naming

NODE = "node-1"
BOUND = {"phase": "Bound"}
DISRUPTED = {"type": "DisruptionTarget", "status": "True"}


def message(stage: str, outcome: str = "completed", **fields: Any) -> str:
    """Return a termination message of the trainer; any artifacts, as a compromised pod writes."""
    fields = {"reason": outcome.capitalize(), "message": f"{stage} {outcome}", **fields}
    fields = {name: value for name, value in fields.items() if value is not None}
    artifacts = fields.pop("artifacts", {})
    if outcome == "completed":
        artifacts = {**{name: digest_of(name) for name in MANIFESTS.get(stage, ())}, **artifacts}
    result = Result.model_validate({"stage": stage, "outcome": outcome, **fields})
    return json.dumps({**json.loads(result.to_message()), "artifacts": artifacts})


def published(pod: Thing, *failed: str, reason: str = "TargetRejected") -> Thing:
    """Return the artifacts of a publish pod: the outcome of each target in its request.

    failed: names of the targets that reject the content.
    """
    (container,) = pod["spec"]["containers"]
    targets, files = [], {}
    for each in json.loads(container["args"][0])["targets"]:
        error = {"reason": reason, "message": "The quota is exhausted."}
        digest: Thing = {
            "digest": _content_digest(each),
            "bytes": 1000,
            "sentBytes": 10,
        }
        if "attestation" in each:
            envelope = opened(each["attestation"].encode())
            signed = {"attestation": hashlib.sha256(envelope.payload).hexdigest()}
            if "huggingFace" in each:
                digest |= {"manifest": each["attested"].removeprefix("sha256:"), **signed}
            else:
                digest = {"digest": each["attested"], **signed}
        elif each.get("attested") == "" and each["name"] not in failed:
            # A hub that gets the files in another attempt, with the statement about them.
            manifest = digest_of(each["content"])
            digest = {"manifest": manifest, "bytes": 1000}
            files[manifest] = file_list.pack(files_of(manifest))
        elif "s3" in each and each["name"] not in failed:
            # In a bucket, the content has the digest of its manifest.json.
            digest["manifest"] = str(digest["digest"]).removeprefix("sha256:")
            files[digest["manifest"]] = file_list.pack(files_of(digest["manifest"]))
        outcome = {"error": error} if each["name"] in failed else digest
        targets.append({"name": each["name"], **outcome})
    return {"targets": targets, **({"files": files} if files else {})}


def files_of(manifest: str) -> dict[str, str]:
    """Return the SHA-256 of the files of a published content. manifest: that of manifest.json."""
    return {MANIFEST: manifest, "config.json": digest_of("config.json")}


def _content_digest(target: Thing) -> str:
    digest = digest_of(target["version"] + target["content"])
    return f"sha1:{digest[:40]}" if "huggingFace" in target else f"sha256:{digest}"


def publish(
    cluster: Cluster,
    *failed: str,
    code: int | None = None,
    refusal: str = "TargetRejected",
    **end: Any,
) -> None:
    """Reconcile, run the publish pod to its end, and update its Job.

    failed: as in published. refusal: the reason of the targets that failed.
    """
    cluster.settle()
    sync(cluster)
    pod = pod_of_stage(cluster, "publish")
    start(cluster, pod)
    cluster.settle()
    cluster.wait(60)
    ended = "failed" if failed else "completed"
    reason = {"reason": "PublishFailed"} if failed else {}
    outcomes = published(pod, *failed, reason=refusal)
    text = message("publish", ended, artifacts=outcomes, **reason)
    code = (87 if failed else 0) if code is None else code
    finish(cluster, pod, code, end.pop("text", text))
    sync(cluster)
    cluster.settle()


def digest_of(name: str) -> str:
    """Return the SHA-256 of a published manifest, by its name in a result."""
    return hashlib.sha256(name.encode()).hexdigest()


# The kubelet.


def alive(pod: Thing) -> bool:
    """Report whether a pod can still run, or run again."""
    return pod["status"]["phase"] not in ("Succeeded", "Failed")


def start(cluster: Cluster, pod: Thing) -> None:
    """Run a pending pod if its volume exists and is not terminating."""
    foreign = {endpoints.object_name(name) for name in cluster.endpoints}
    own = (claim for claim in claims_of(pod) if claim not in foreign)
    volumes = [cluster.get(naming.VOLUME, claim) for claim in own]
    if any(each is None or "deletionTimestamp" in each["metadata"] for each in volumes):
        return
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": cluster.stamp()}
    pod["status"] = {
        "phase": "Running",
        "conditions": [scheduled],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": cluster.image_ids.get(container["image"], ""),
                "state": {"running": {}},
            }
            for container in pod["spec"]["containers"]
        ],
    }
    pod["spec"] = {**pod["spec"], "nodeName": NODE}
    cluster.touch(pod)
    for volume in volumes:
        if volume is not None and volume["status"] != BOUND:
            volume["status"] = dict(BOUND)
            cluster.touch(volume)


def claims_of(pod: Thing) -> list[str]:
    """Return the names of the claims that a pod mounts."""
    volumes = (volume.get("persistentVolumeClaim") for volume in pod["spec"]["volumes"])
    return [str(claim["claimName"]) for claim in volumes if claim]


def finish(
    cluster: Cluster, pod: Thing, code: int = 0, text: str = "", reason: str | None = None
) -> None:
    """Terminate the container of a pod."""
    why = reason or ("Completed" if code == 0 else "Error")
    end = {"exitCode": int(code), "reason": why, "message": text, "finishedAt": cluster.stamp()}
    pod["status"] |= {
        "phase": "Succeeded" if code == 0 else "Failed",
        "containerStatuses": [
            {
                **next(
                    each
                    for each in pod["status"].get("containerStatuses", ({"name": CONTAINER},))
                    if each["name"] == CONTAINER
                ),
                "state": {"terminated": end},
            }
        ],
    }
    cluster.touch(pod)


def evict(cluster: Cluster, pod: Thing) -> None:
    """Evict a pod because of its node; the kubelet terminates the pod later."""
    pod["status"]["conditions"] = [DISRUPTED]
    cluster.mark_deleted(pod)


def stop(cluster: Cluster, pod: Thing) -> None:
    """Terminate a deleted pod like a trainer that has saved its checkpoint."""
    stage = pod["metadata"]["labels"][naming.STAGE]
    if stage == "serve":
        pod["status"]["phase"] = "Succeeded"
        cluster.touch(pod)
    else:
        finish(cluster, pod, ExitCode.STOPPED, message(stage, "stopped"))


def request_of(job: Thing) -> Any:
    """Return the request that a Job passes to the trainer."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (argument,) = container["args"]
    request: StageRequest = parse(argument)
    return request


# The Job controller.


def ended(job: Thing) -> bool:
    """Report whether a Job is Complete or Failed."""
    return any(
        found["type"] in ("Complete", "Failed") and found["status"] == "True"
        for found in job["status"].get("conditions", ())
    )


def sync_job(cluster: Cluster, job: Thing) -> None:
    """Count the terminated pods of a Job, and create a missing pod."""
    if ended(job) or "deletionTimestamp" in job["metadata"]:
        return
    status = copied(job["status"])
    counted = status.setdefault("counted", [])
    for pod in pods_of(cluster, job):
        if alive(pod) or pod["metadata"]["uid"] in counted:
            continue
        counted.append(pod["metadata"]["uid"])
        if pod["status"]["phase"] == "Succeeded":
            status["conditions"] = [{"type": "Complete", "status": "True"}]
        else:
            _count_failure(job, pod, status)
    active = [pod for pod in pods_of(cluster, job) if alive(pod)]
    if status.get("overdue") and not ended({"status": status}) and not active:
        failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}
        status["conditions"] = [failed]
    if not ended({"status": status}) and not active and not job["spec"].get("suspend"):
        _add_pod(cluster, job, {"batch.kubernetes.io/job-name": job["metadata"]["name"]})
    if status != job["status"]:
        job["status"] = status
        cluster.touch(job)


def overdue(cluster: Cluster, job: Thing) -> None:
    """Let a Job exceed its deadline; it fails after its deleted pods have terminated."""
    if not ended(job) and job["spec"].get("activeDeadlineSeconds") is not None:
        job["status"]["overdue"] = True
        counted = job["status"].setdefault("counted", [])
        for pod in pods_of(cluster, job):
            if alive(pod):
                counted.append(pod["metadata"]["uid"])
                cluster.mark_deleted(pod)
        cluster.touch(job)


def suspend(cluster: Cluster, job: Thing) -> None:
    """Suspend a Job like Kueue: its pods are deleted and not counted."""
    job["spec"]["suspend"] = True
    job["status"]["conditions"] = [{"type": "Suspended", "status": "True"}]
    counted = job["status"].setdefault("counted", [])
    for pod in pods_of(cluster, job):
        if alive(pod):
            counted.append(pod["metadata"]["uid"])
            cluster.mark_deleted(pod)
    cluster.touch(job)


def admit(cluster: Cluster, job: Thing) -> None:
    """Resume a suspended Job."""
    job["spec"]["suspend"] = False
    job["status"]["conditions"] = [{"type": "Suspended", "status": "False"}]
    cluster.touch(job)


def _count_failure(job: Thing, pod: Thing, status: Thing) -> None:
    rules = job["spec"]["podFailurePolicy"]["rules"]
    code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    failed = {"type": "Failed", "status": "True"}
    if code in rules[0]["onExitCodes"]["values"]:
        status["conditions"] = [{**failed, "reason": "PodFailurePolicy"}]
    elif DISRUPTED not in pod["status"].get("conditions", ()):
        status["failed"] = status.get("failed", 0) + 1
        if status["failed"] > job["spec"]["backoffLimit"]:
            status["conditions"] = [{**failed, "reason": "BackoffLimitExceeded"}]


def pods_of(cluster: Cluster, owner: Thing) -> list[Thing]:
    """Return the pods that an object controls."""
    return [pod for pod in cluster.each("Pod") if _owner(pod) == owner["metadata"]["uid"]]


def _owner(thing: Thing) -> str | None:
    references = thing["metadata"].get("ownerReferences", ())
    return next((str(found["uid"]) for found in references if found["controller"]), None)


def _add_pod(cluster: Cluster, owner: Thing, labels: dict[str, str]) -> None:
    template = owner["spec"]["template"]
    # A ReplicaSet is not simulated: it has the uid of its Deployment.
    controller = {"kind": "Job", "name": owner["metadata"]["name"]}
    if owner["kind"] == "Deployment":
        suffix = labels[naming.TEMPLATE_HASH]
        controller = {"kind": "ReplicaSet", "name": f"{owner['metadata']['name']}-{suffix}"}
    # Pods of one owner have different ages, because a pod starts after the previous one could end.
    cluster.wait(1)
    cluster.add(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"pod-{cluster.identities}",
                "labels": template["metadata"]["labels"] | labels,
                "ownerReferences": [
                    {**controller, "uid": owner["metadata"]["uid"], "controller": True}
                ],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
    )


# The Deployment controller; it stops an old pod before it creates a new one.


def sync_deployment(cluster: Cluster, deployment: Thing) -> None:
    """Replace pods of an earlier template, create or delete pods, and count the available ones."""
    if "deletionTimestamp" in deployment["metadata"]:
        return
    wanted, template = deployment["spec"]["replicas"], deployment["spec"]["template"]
    pods = [pod for pod in pods_of(cluster, deployment) if alive(pod)]
    going = [pod for pod in pods if "deletionTimestamp" in pod["metadata"]]
    staying = [pod for pod in pods if pod not in going]
    old = [pod for pod in staying if not _made_from(pod, template)]
    if old and not going:
        cluster.mark_deleted(old[0])
    for pod in staying[wanted:]:
        cluster.mark_deleted(pod)
    for _ in range(wanted - len(pods)):
        _add_pod(cluster, deployment, {naming.TEMPLATE_HASH: "5f6"})
    current = [pod for pod in staying if _made_from(pod, template)]
    answering = [pod for pod in current if pod["status"]["phase"] == "Running"]
    status = {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": len(pods),
        "updatedReplicas": len(current),
        "availableReplicas": len(answering),
    }
    complete = len(pods) == len(answering) == wanted
    status["conditions"] = [_progressing(deployment, complete=complete, replaces=bool(old))]
    if status != deployment["status"]:
        deployment["status"] = status
        cluster.touch(deployment)


def _made_from(pod: Thing, template: Thing) -> bool:
    labels = template["metadata"]["labels"].items()
    spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    return bool(spec == template["spec"] and labels <= pod["metadata"]["labels"].items())


def _progressing(deployment: Thing, *, complete: bool, replaces: bool) -> Thing:
    """Return the condition Progressing, which a completed rollout keeps until the next one."""
    done = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
    was_complete = done in deployment["status"].get("conditions", ())
    if complete or (was_complete and not replaces):
        return done
    return {**done, "reason": "ReplicaSetUpdated"}


# The garbage collector, and the finalizers that block it.


def delete(
    cluster: Cluster,
    kind: str,
    name: str,
    propagation: Literal["Foreground", "Orphan"] = "Foreground",
) -> None:
    """Delete a child like a user, with or without its pods."""
    thing = cluster.get(kind, name)
    assert thing is not None, f"no {kind} {name}"
    if propagation == "Orphan":
        for pod in pods_of(cluster, thing):
            pod["metadata"]["ownerReferences"] = []
            cluster.touch(pod)
        cluster.remove(thing)
    else:
        cluster.mark_deleted(thing)


def collect(cluster: Cluster) -> None:
    """Remove terminating objects without finalizers, and objects without an existing owner."""
    job = cluster.job
    owners = {thing["metadata"]["uid"] for thing in cluster.objects.values()}
    if job is not None:
        if "deletionTimestamp" in job["metadata"]:
            for child in list(cluster.objects.values()):
                if naming.owned_by(job, child):
                    cluster.mark_deleted(child)
        owners.add(job["metadata"]["uid"])
    for thing in list(cluster.objects.values()):
        if (owner := _owner(thing)) is not None and owner not in owners:
            cluster.mark_deleted(thing)
        if "deletionTimestamp" in thing["metadata"]:
            for pod in pods_of(cluster, thing):
                cluster.mark_deleted(pod)
            if not _held_up(cluster, thing):
                cluster.remove(thing)
    if (
        job is not None
        and "deletionTimestamp" in job["metadata"]
        and not any(naming.owned_by(job, child) for child in cluster.objects.values())
    ):
        cluster.job = None


def _held_up(cluster: Cluster, thing: Thing) -> bool:
    if thing["kind"] == "Pod":
        owner = next(
            (
                found
                for found in cluster.objects.values()
                if found["metadata"]["uid"] == _owner(thing)
            ),
            None,
        )
        waits_for_count = (
            owner is not None
            and owner["kind"] == "Job"
            and "deletionTimestamp" not in owner["metadata"]
            and thing["metadata"]["uid"] not in owner["status"].get("counted", ())
            and not ended(owner)
        )
        return alive(thing) or waits_for_count
    if thing["kind"] == "PersistentVolumeClaim":
        # Kubernetes protects a claim until every pod with a node is deleted, even those that ended.
        return any(
            "nodeName" in pod["spec"] and thing["metadata"]["name"] in claims_of(pod)
            for pod in cluster.each("Pod")
        )
    return bool(pods_of(cluster, thing))


# Backup and restore.


def restore(
    cluster: Cluster, *, status: bool = True, owners: bool = False, reuse: bool = False
) -> dict[str, str]:
    """Delete the namespace, and restore the FineTuneJob and its claims from a backup.

    status: whether the status is restored, too; owners: whether the claims keep their owners;
    reuse: whether the claims get the label that allows another job of the name to use them.
    Return the new uids by those in the backup. It does not contain the claims of an earlier job,
    which would never be collected without their owner.
    """
    backup = copied(cluster.present_job())
    claims = [each for each in cluster.list(naming.VOLUME) if naming.owned_by(backup, each)]
    for thing in list(cluster.objects.values()):
        cluster.remove(thing)
    cluster.submit()
    job = cluster.present_job()
    job["spec"] = backup["spec"]
    if status:
        job["status"] = backup["status"]
    uids = {backup["metadata"]["uid"]: job["metadata"]["uid"]}
    for claim in claims:
        old = claim["metadata"]
        if "deletionTimestamp" in old:
            continue
        marks = {naming.REUSE: naming.REUSE_DOWNLOADS} if reuse else {}
        kept = {"name": old["name"], "labels": {**old["labels"], **marks}}
        if owners and "ownerReferences" in old:
            kept["ownerReferences"] = old["ownerReferences"]
        uids[old["uid"]] = cluster.add({**claim, "metadata": kept})["metadata"]["uid"]
    return uids


def allow_reuse(cluster: Cluster) -> None:
    """Label the claims without an owner, so that another job of the name may use them."""
    for claim in cluster.each(naming.VOLUME):
        if not claim["metadata"].get("ownerReferences"):
            claim["metadata"]["labels"][naming.REUSE] = naming.REUSE_DOWNLOADS
            cluster.touch(claim)


# Complete runs, for tests of later events.


def pod_of_stage(cluster: Cluster, stage: str) -> Thing:
    """Return the only live pod of a stage."""
    (found,) = [
        pod
        for pod in cluster.each("Pod")
        if pod["metadata"]["labels"][naming.STAGE] == stage and alive(pod)
    ]
    return found


def sync(cluster: Cluster) -> None:
    """Run one step of every controller."""
    for job in cluster.each("Job"):
        sync_job(cluster, job)
    for deployment in cluster.each("Deployment"):
        sync_deployment(cluster, deployment)
    collect(cluster)


def run(cluster: Cluster, stage: str, code: int = 0, text: str | None = None, **end: Any) -> None:
    """Reconcile, run the pod of the stage to its end, and update its Job."""
    cluster.settle()
    sync(cluster)
    pod = pod_of_stage(cluster, stage)
    start(cluster, pod)
    cluster.settle()
    cluster.wait(60)
    finish(cluster, pod, code, message(stage) if text is None else text, **end)
    sync(cluster)


def serve(cluster: Cluster) -> None:
    """Start the serving pods, and reconcile."""
    cluster.settle()
    sync(cluster)
    for pod in cluster.each("Pod"):
        if pod["metadata"]["labels"][naming.STAGE] == "serve" and alive(pod):
            start(cluster, pod)
    sync(cluster)
    cluster.settle()
    sync(cluster)


def run_all(cluster: Cluster) -> None:
    """Run all stages of a job until it serves."""
    for stage in ("prepare", "train", "merge"):
        run(cluster, stage)
    serve(cluster)
