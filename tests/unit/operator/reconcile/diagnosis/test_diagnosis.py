"""Blockers of pods and Jobs in full: reason, message, and when a block began."""

from typing import Any

import pytest

from finetune_operator.reconcile.diagnosis import diagnosis
from finetune_operator.reconcile.diagnosis.blocker import Blocker, Evidence, names
from finetune_operator.reconcile.diagnosis.scheduling import PROVISIONING_SECONDS, required_labels
from finetune_operator.reconcile.messages import quoting, sentence

NO_EVIDENCE = Evidence()


def pod(*, stage: str = "train", spec: Any = None, **status: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "ns",
            "uid": "pod",
            "creationTimestamp": "2026-01-01T00:00:05Z",
            "labels": {"finetune.dev/stage": stage},
        },
        "spec": spec or {},
        "status": {"phase": "Pending", **status},
    }


def waits(reason: str, message: str = "", *, stage: str = "train", init: bool = False) -> Any:
    container = {
        "name": "c",
        "image": "registry/x:1",
        "state": {"waiting": {"reason": reason, "message": message}},
    }
    kind = "initContainerStatuses" if init else "containerStatuses"
    return pod(stage=stage, **{kind: [container]})


def said(blocker: Blocker | None) -> tuple[str, str] | None:
    return None if blocker is None else (str(blocker.reason), blocker.message)


IMAGE = (
    "Image registry/x:1 cannot be pulled. Check that the image exists. If the registry requires a "
    "login, create the Secrets of the chart value imagePullSecrets in the namespace of the job. If "
    "the chart has a wrong image, correct it: a revision of which no container has started takes "
    "the corrected image. Any other keeps its image: provide it under this name, or set spec.rerun "
    "to a new value to start a new revision."
)
SOURCE_FIELD = "the configmap:// source or caConfigMapRef"
OF_PREPARE = (
    "with the key that tokenSecretRef names, the key .dockerconfigjson for oci.secretRef, or, for "
    "s3.secretRef, the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
)
OF_PUBLISH = (
    "with the key .dockerconfigjson for oci.secretRef, the key that huggingFace.tokenSecretRef "
    "names, or, for s3.secretRef, the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
)


@pytest.mark.parametrize(
    ("each", "reason", "message"),
    [
        *(
            (waits(reason), "ImagePullFailed", f"{IMAGE} Kubelet: {reason}.")
            for reason in (
                "ErrImagePull",
                "ImagePullBackOff",
                "InvalidImageName",
                "ErrImageNeverPull",
            )
        ),
        (
            waits("ErrImagePull", "denied", init=True),
            "ImagePullFailed",
            f"{IMAGE} Kubelet: denied.",
        ),
        (
            waits("CrashLoopBackOff", "back-off 5m0s"),
            "CrashLoopBackOff",
            "Container c exits repeatedly. To see why, run: kubectl logs p -c c --previous -n ns. "
            "Kubelet: back-off 5m0s.",
        ),
        *(
            (
                waits(reason, "no such file"),
                reason,
                "Container c cannot be started. Kubelet: no such file.",
            )
            for reason in (
                "CreateContainerConfigError",
                "CreateContainerError",
                "RunContainerError",
            )
        ),
        (
            waits("CreateContainerConfigError", 'secret "ns/hf" not found'),
            "SecretMissing",
            f"Secret hf does not exist. Create it in namespace ns, {OF_PREPARE} Kubelet: secret "
            '"ns/hf" not found.',
        ),
        (
            waits("CreateContainerConfigError", 'secret "key" not found', stage="serve"),
            "SecretMissing",
            "Secret key does not exist. Create it in namespace ns, with the key that "
            'serving.apiKeySecretRef names. Kubelet: secret "key" not found.',
        ),
        (
            waits("CreateContainerConfigError", 'secret "hub" not found', stage="publish"),
            "SecretMissing",
            f"Secret hub does not exist. Create it in namespace ns, {OF_PUBLISH} Kubelet: secret "
            '"hub" not found.',
        ),
        (
            waits("CreateContainerConfigError", 'configmap "rows" not found'),
            "ConfigMapMissing",
            f"ConfigMap rows does not exist. Create it in namespace ns, with the key that "
            f'{SOURCE_FIELD} names. Kubelet: configmap "rows" not found.',
        ),
        (
            waits("CreateContainerConfigError", "couldn't find key token in Secret ns/hf"),
            "SecretMissing",
            "Secret hf has no key token. Add the key to it in namespace ns. Kubelet: couldn't find "
            "key token in Secret ns/hf.",
        ),
        (
            waits("CreateContainerConfigError", "couldn't find key a in ConfigMap ns/rows"),
            "ConfigMapMissing",
            "ConfigMap rows has no key a. Add the key to it in namespace ns. Kubelet: couldn't "
            "find key a in ConfigMap ns/rows.",
        ),
        (
            waits("CreateContainerConfigError", "references non-existent config key: rows.jsonl"),
            "ConfigMapMissing",
            "A ConfigMap of the job has no key rows.jsonl. Add the key to it in namespace ns. "
            "Kubelet: references non-existent config key: rows.jsonl.",
        ),
        (
            waits("CreateContainerConfigError", "references non-existent secret key: ca.pem"),
            "SecretMissing",
            "A Secret of the job has no key ca.pem. Add the key to it in namespace ns. Kubelet: "
            "references non-existent secret key: ca.pem.",
        ),
    ],
)
def test_container_that_cannot_start_is_explained(each: Any, reason: str, message: str) -> None:
    assert said(diagnosis.of_pod(each, NO_EVIDENCE)) == (reason, message)


@pytest.mark.parametrize("each", [pod(), waits("ContainerCreating"), waits("PodInitializing")])
def test_starting_container_is_no_blocker(each: Any) -> None:
    assert diagnosis.of_pod(each, NO_EVIDENCE) is None


def event(uid: str, reason: str, note: str, *, time: str = "t", **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"creationTimestamp": time},
        "reason": reason,
        "note": note,
        "regarding": {"uid": uid},
        **more,
    }


@pytest.mark.parametrize("reason", ["FailedMount", "FailedAttachVolume"])
def test_volume_that_cannot_be_mounted_is_explained(reason: str) -> None:
    evidence = Evidence(events=(event("pod", reason, "timed out"),))
    assert said(diagnosis.of_pod(pod(), evidence)) == (
        "VolumePending",
        "A volume of the pod cannot be attached or mounted. Possible causes: another pod or node "
        "still uses the volume, or the node of the pod lacks the storage driver of the volume. "
        "Kubelet: timed out.",
    )


def unscheduled(message: str, *, spec: Any = None, evidence: Evidence = NO_EVIDENCE) -> Blocker:
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    blocker = diagnosis.of_pod(pod(conditions=[condition], spec=spec), evidence)
    assert blocker is not None
    return blocker


TOLERATE = (
    "To allow the pod on this node, add a toleration to spec.placement.tolerations, or to the "
    "chart value gpu.tolerations for all jobs."
)
MATCH = "1 node(s) didn't match Pod's node affinity/selector"
LABELS = (
    "Set spec.placement.nodeSelector to a label that your nodes have, or label a node. To list the "
    "labels of the nodes, run: kubectl get nodes --show-labels."
)
CPU_REQUESTS = {"containers": [{"resources": {"requests": {"cpu": 3}}}, {}]}


@pytest.mark.parametrize(
    ("cause", "spec", "explanation"),
    [
        (
            "1 Insufficient nvidia.com/gpu",
            None,
            "No suitable node has a free GPU (nvidia.com/gpu). The pod starts when a GPU becomes "
            "free, or when a node with a GPU is added. To see which pods hold the GPUs of a node, "
            "run: kubectl describe node NODE. A node offers its GPUs only if a device plugin runs "
            "on it.",
        ),
        (
            "1 Insufficient nvidia.com/gpu, 2 Insufficient cpu",
            CPU_REQUESTS,
            "No suitable node has a free GPU (nvidia.com/gpu) and enough free cpu: the pod "
            "requests cpu 3. Lower spec.resources.train.requests if no node with a GPU has as "
            "much, or wait until a GPU becomes free.",
        ),
        (
            "1 Insufficient cpu, 1 Insufficient memory, 2 Insufficient cpu",
            CPU_REQUESTS,
            "No suitable node has enough free cpu and memory. The pod requests cpu 3 and memory of "
            "all its containers. Lower spec.resources.train.requests, or add a larger node.",
        ),
        (
            "1 node(s) had volume node affinity conflict, 1 Insufficient cpu",
            None,
            "No suitable node can mount the job's volume, which is bound to one zone or node. Free "
            "resources on a node that can mount the volume, or add a node to the zone of the "
            "volume. Otherwise, delete the job and create it again with spec.placement.zones.",
        ),
        (
            "1 node(s) didn't match PersistentVolume's node affinity",
            None,
            "No suitable node can mount the job's volume, which is bound to one zone or node. Free "
            "resources on a node that can mount the volume, or add a node to the zone of the "
            "volume. Otherwise, delete the job and create it again with spec.placement.zones.",
        ),
        (
            "1 node(s) had untolerated taint {team: a}, 1 node(s) had untolerated taint "
            "{node-role.kubernetes.io/control-plane: }",
            None,
            f"The pod does not tolerate the taint team of a node. {TOLERATE}",
        ),
        (
            MATCH,
            {"nodeSelector": {"a": "b"}},
            f"No available node has the label a=b, which spec.placement requires. {LABELS}",
        ),
        (
            MATCH,
            {"nodeSelector": {"a": "b", "c": "d"}},
            "No available node has the labels a=b and c=d, which spec.placement requires. "
            f"{LABELS}",
        ),
        (MATCH, None, "No node matches the node affinity of the pod."),
        (
            "1 node(s) were unschedulable",
            None,
            "A node is cordoned. To admit pods again, run: kubectl uncordon NODE.",
        ),
        ("something new", None, "No node fits the pod."),
    ],
)
def test_pod_that_no_node_fits_is_explained(cause: str, spec: Any, explanation: str) -> None:
    message = f"0/2 nodes are available: {cause}. preemption: 0/2 nodes are available."
    blocker = unscheduled(message, spec=spec)
    assert said(blocker) == (
        "Unschedulable",
        f"{explanation} Scheduler: 0/2 nodes are available: {cause}.",
    )
    assert (blocker.waits, blocker.lasts, blocker.grace) == (True, False, 0.0)


def terms(*terms: list[dict[str, Any]]) -> dict[str, Any]:
    found = [{"matchExpressions": term} for term in terms]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": found}}
    return {"spec": {"affinity": {"nodeAffinity": required}}}


@pytest.mark.parametrize(
    ("each", "labels"),
    [
        ({}, []),
        ({"spec": {"nodeSelector": {"c": "d", "a": "b"}}}, ["a=b", "c=d"]),
        (terms([{"key": "k", "operator": "In", "values": ["v"]}]), ["k=v"]),
        (terms([{"key": "k", "operator": "In", "values": ["v", "w"]}]), ["k in (v, w)"]),
        (terms([{"key": "k", "operator": "NotIn", "values": ["v"]}]), ["k notin (v)"]),
        (
            terms([{"key": "k", "operator": "Exists"}], [{"key": "l", "operator": "Exists"}]),
            ["k exists or l exists"],
        ),
        (
            terms(
                [{"key": "k", "operator": "Exists"}, {"key": "l", "operator": "Gt", "values": [1]}]
            ),
            ["k exists and l gt (1)"],
        ),
    ],
)
def test_labels_that_a_pod_requires(each: Any, labels: list[str]) -> None:
    assert [*required_labels(each)] == labels


CLAIM = {"volumes": [{"name": "scratch"}, {"persistentVolumeClaim": {"claimName": "v"}}]}
UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
CHOOSE = (
    "Set spec.storage.storageClassName to an existing StorageClass. To list them, run: kubectl get "
    "storageclass."
)


def volume(storage_class: str | None) -> dict[str, Any]:
    return {"metadata": {"name": "v"}, "spec": {"storageClassName": storage_class}}


def not_bound(of_class: str) -> str:
    return (
        f"PersistentVolumeClaim v{of_class} is not bound. Check the provisioner and the free "
        "capacity of the StorageClass, or set spec.storage.storageClassName to another class. "
        "For details, run: kubectl describe pvc v -n ns."
    )


@pytest.mark.parametrize(
    ("evidence", "explanation", "cause", "grace"),
    [
        (Evidence(), not_bound(""), "", PROVISIONING_SECONDS),
        (
            Evidence(volumes=(volume("fast"),)),
            not_bound(" of StorageClass fast"),
            "",
            PROVISIONING_SECONDS,
        ),
        (
            Evidence(volumes=(volume(None),)),
            "PersistentVolumeClaim v names no StorageClass, and the cluster has no default "
            f"StorageClass. {CHOOSE}",
            "",
            0.0,
        ),
        *(
            (
                Evidence(
                    volumes=(volume("fast"),),
                    events=(
                        event("x", "A", "older", time="1", regarding={"name": "v"}, type=type_),
                        event("x", "A", note, time="2", regarding={"name": "v"}, type=type_),
                        event("x", "A", "of another", time="3", regarding={"name": "w"}),
                    ),
                ),
                explanation,
                f" PersistentVolumeClaim v: {note}.",
                grace,
            )
            for note, type_, explanation, grace in (
                ("quota", "Warning", not_bound(" of StorageClass fast"), 0.0),
                ("waits", "Normal", not_bound(" of StorageClass fast"), PROVISIONING_SECONDS),
                (
                    'storageclass.storage.k8s.io "fast" not found',
                    "Normal",
                    f"StorageClass fast does not exist. {CHOOSE}",
                    0.0,
                ),
            )
        ),
    ],
)
def test_unbound_volume_is_explained(
    evidence: Evidence, explanation: str, cause: str, grace: float
) -> None:
    blocker = unscheduled(UNBOUND, spec=CLAIM, evidence=evidence)
    assert said(blocker) == (
        "VolumePending",
        f"{explanation} Scheduler: {UNBOUND}.{cause}",
    )
    assert (blocker.waits, blocker.lasts, blocker.grace) == (False, False, grace)


@pytest.mark.parametrize(
    "message",
    [
        UNBOUND,
        "1 node(s) didn't find available persistent volumes to bind",
        'running PreBind plugin "VolumeBinding": binding volumes: provisioning failed for PVC "v"',
        'running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded',
        'storageclass.storage.k8s.io "fast" not found',
    ],
)
def test_messages_of_the_scheduler_about_volumes(message: str) -> None:
    assert unscheduled(message, spec=CLAIM).reason == "VolumePending"


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ("v", 'persistentvolumeclaim "v" is being deleted'),
        ("models", 'persistentvolumeclaim "models" is being deleted'),
        ("v", UNBOUND),
    ],
    ids=["own", "another", "noticed by the operator only"],
)
def test_volume_that_is_being_deleted_is_explained(claim: str, message: str) -> None:
    own = volume("fast")
    if claim == "v":
        own["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    blocker = unscheduled(
        f"0/2 nodes are available: {message}.", spec=CLAIM, evidence=Evidence(volumes=(own,))
    )
    assert said(blocker) == (
        "VolumePending",
        f"PersistentVolumeClaim {claim} is terminating, so no new pod can mount it. The deletion "
        "cannot be canceled. For the pods that still use the claim, run: kubectl describe pvc "
        f"{claim} -n ns. Scheduler: 0/2 nodes are available: {message}.",
    )
    assert blocker.grace == 0.0, "no provisioner will change this"


def job(*, queue: str | None = None, suspend: bool = False, **status: Any) -> dict[str, Any]:
    labels = {} if queue is None else {"kueue.x-k8s.io/queue-name": queue}
    return {
        "metadata": {
            "name": "j",
            "uid": "job",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": labels,
        },
        "spec": {"suspend": suspend},
        "status": status,
    }


@pytest.mark.parametrize(
    ("queue", "events", "has_run", "reason", "message"),
    [
        (
            "q",
            (),
            False,
            "Queued",
            "Job j is waiting for queue q to admit it.",
        ),
        (
            None,
            (event("job", "Pending", "no quota", type="Warning"),),
            False,
            "Queued",
            "Job j is waiting for its queue to admit it: no quota.",
        ),
        (
            "q",
            (event("job", "Suspended", "Job suspended", type="Normal"),),
            True,
            "Preempted",
            "Job j was suspended to make room for another workload. It resumes from its last "
            "checkpoint when queue q admits it again.",
        ),
    ],
)
def test_suspended_job_waits_for_its_queue(
    queue: str | None, events: Any, has_run: bool, reason: str, message: str
) -> None:
    blocker = diagnosis.of_job(
        job(queue=queue, suspend=True),
        [pod()],
        Evidence(events=events),
        has_run=has_run,
        failed_to_start=False,
        since="",
    )
    assert said(blocker) == (reason, message)
    assert blocker is not None
    assert (blocker.waits, blocker.lasts) == (True, False)


def test_job_that_kueue_cannot_start_has_failed_at_once() -> None:
    blocker = diagnosis.of_job(
        job(suspend=True), [], NO_EVIDENCE, has_run=False, failed_to_start=True, since=""
    )
    assert said(blocker) == (
        "FailedToStart",
        "Kueue could not start Job j, marked its Workload as finished, and will not retry. To "
        "see why, run: kubectl get workloads -l kueue.x-k8s.io/job-uid=job -o yaml. To start a new "
        "attempt, change spec.placement or spec.queueName.",
    )
    assert blocker is not None
    assert (blocker.waits, blocker.lasts) == (False, True)


REJECTED = (
    "The API server rejected an object of the job. The job continues as soon as the API server "
    "accepts this object. API server: denied."
)
QUOTA = (
    "A ResourceQuota of the namespace is exhausted. Raise the quota, or lower spec.resources. API "
    "server: exceeded quota: gpu."
)


@pytest.mark.parametrize(
    ("pods", "note", "since", "expected"),
    [
        ([], "denied", "", ("FailedCreate", REJECTED)),
        ([], "exceeded quota: gpu", "", ("QuotaExceeded", QUOTA)),
        ([pod(phase="Failed")], "denied", "t", ("FailedCreate", REJECTED)),
        ([pod(phase="Failed")], "denied", "u", None),
        ([pod(phase="Running")], "denied", "", None),
        ([pod(phase="Failed"), pod(phase="Running")], "denied", "", None),
        ([pod(phase="Pending")], "denied", "", None),
    ],
)
def test_rejected_pod_of_a_job_is_explained_while_no_other_runs(
    pods: Any, note: str, since: str, expected: tuple[str, str] | None
) -> None:
    evidence = Evidence(events=(event("job", "FailedCreate", note),))
    blocker = diagnosis.of_job(
        job(), pods, evidence, has_run=False, failed_to_start=False, since=since
    )
    assert said(blocker) == expected


@pytest.mark.parametrize(
    ("status", "phases", "expected"),
    [
        ({}, [], False),
        ({"active": 1}, ["Pending"], False),
        ({"ready": 1}, [], True),
        ({"succeeded": 1}, [], True),
        ({"failed": 1}, [], True),
        ({"ready": 0, "succeeded": 0, "failed": 0}, ["Pending"], False),
        ({}, ["Pending", "Running"], True),
        ({}, ["Succeeded"], True),
        ({}, ["Failed"], True),
    ],
)
def test_job_has_started_once_a_pod_ran(status: Any, phases: Any, expected: bool) -> None:
    pods = [pod(phase=phase) for phase in phases]
    assert diagnosis.started(job(**status), pods) is expected


@pytest.mark.parametrize(
    ("suspend", "events", "before", "expected"),
    [
        (True, [event("job", "FinishedWorkload", "x")], False, True),
        (False, [event("job", "FinishedWorkload", "x")], False, False),
        (True, [event("job", "Other", "x")], False, False),
        (True, [event("other", "FinishedWorkload", "x")], False, False),
        (True, [], True, True),
        (False, [], True, False),
    ],
)
def test_kueue_never_starts_a_job_whose_workload_is_finished(
    suspend: bool, events: Any, before: bool, expected: bool
) -> None:
    assert diagnosis.failed_to_start(job(suspend=suspend), events, before=before) is expected


def ended(at: str) -> dict[str, Any]:
    states = [{"state": {"terminated": {"finishedAt": at}}}, {"state": {"running": {}}}]
    return pod(phase="Failed", containerStatuses=states)


CREATED, POD_CREATED = "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z"
LATER, LATEST = "2026-01-01T00:00:07Z", "2026-01-01T00:00:09Z"


@pytest.mark.parametrize(
    ("each", "pods", "events", "last_pod", "since"),
    [
        (job(), [], [], None, CREATED),
        (job(startTime=LATER), [], [], None, LATER),
        (job(), [ended(LATER), pod()], [], None, POD_CREATED),
        (job(), [ended(LATER)], [], None, LATER),
        (job(), [ended(LATER)], [], LATEST, LATEST),
        (job(), [pod(phase="Failed")], [], None, POD_CREATED),
        (job(), [], [], LATER, LATER),
        (job(), [], [event("job", "FailedCreate", "x", time=LATEST)], LATER, LATEST),
        (job(), [], [event("job", "Other", "x", time=LATEST)], LATER, LATER),
        (job(), [], [event("other", "FailedCreate", "x", time=LATEST)], LATER, LATER),
        (job(), [], [event("job", "FailedCreate", "x", time=POD_CREATED)], LATER, LATER),
        (
            job(),
            [],
            [event("job", "FailedCreate", "x", time=CREATED, lastTimestamp=LATEST)],
            LATER,
            LATEST,
        ),
    ],
)
def test_job_waits_since_its_last_pod_ended_or_was_first_rejected(
    each: Any, pods: Any, events: Any, last_pod: str | None, since: str
) -> None:
    assert diagnosis.waiting_since(each, pods, events, last_pod=last_pod) == since


def test_quoted_messages_are_sentences() -> None:
    assert [sentence(text) for text in ("a", "a.", "a ;", "")] == ["a.", "a.", "a.", "."]
    assert quoting("Our text.", "Kubelet", "theirs") == "Our text. Kubelet: theirs."
    assert quoting("Our text.", "Kubelet", "") == "Our text."
    assert [names(["a"]), names(["a", "b"]), names(["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]


def test_volume_is_found_by_name() -> None:
    evidence = Evidence(volumes=(volume("x"),))
    assert evidence.volume("v") == volume("x")
    assert evidence.volume("w") is None
    assert evidence.placed_by == "spec.placement"
