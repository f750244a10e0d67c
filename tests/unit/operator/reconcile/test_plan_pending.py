"""Why a job is not running: reason and message of each cause, and when the job is Stalled."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing
from tests.support.reconcile.pending_pods import PODS, event, unscheduled, waiting

from finetune_operator.reconcile.diagnosis.scheduling import PROVISIONING_SECONDS, required_labels

DEADLINE = 600
ENDS_BY_ITSELF = ("Unschedulable",)


def ready(cluster: Cluster) -> tuple[str, str, str | None]:
    """Return reason and message of Ready, and which of Reconciling and Stalled is present."""
    conditions = {each["type"]: each for each in cluster.plan().status["conditions"]}
    kind = next((name for name in ("Reconciling", "Stalled") if name in conditions), None)
    assert conditions["Ready"]["status"] == "False"
    return conditions["Ready"]["reason"], conditions["Ready"]["message"], kind


def at(stage: str, spec: Thing | None = None) -> Cluster:
    """Return a cluster in which the pod of a stage has just been created."""
    cluster = Cluster()
    cluster.edit(**(spec or {}))
    for done in ("prepare", "train", "merge"):
        if done == stage:
            break
        controllers.run(cluster, done)
    cluster.settle()
    controllers.sync(cluster)
    return cluster


@pytest.mark.parametrize("stage", ["prepare", "train", "merge", "serve"])
@pytest.mark.parametrize("cause", PODS)
def test_reason_and_message_of_a_pod_that_cannot_start(cause: str, stage: str) -> None:
    cluster = at(stage)
    pod = controllers.pod_of_stage(cluster, stage)
    pod["status"] = PODS[cause]
    cluster.wait(DEADLINE)
    reason, message, kind = ready(cluster)
    assert (reason, kind) == (cause, "Reconciling")
    assert said(PODS[cause]) in message
    cluster.wait(1)
    stalls = None if cause in ENDS_BY_ITSELF else "Stalled"
    assert ready(cluster)[2] == (stalls or "Reconciling")
    controllers.start(cluster, pod)
    assert ready(cluster)[2] == "Reconciling", "it recovers by itself"


def said(status: Thing) -> str:
    """Return the message of the kubelet or the scheduler."""
    for condition in status.get("conditions", ()):
        return str(condition["message"])
    return str(status["containerStatuses"][0]["state"]["waiting"]["message"])


def test_pending_deadline_seconds_decides_when_a_job_is_stalled() -> None:
    cluster = at("train", {"runPolicy": {"pendingDeadlineSeconds": 3600}})
    controllers.pod_of_stage(cluster, "train")["status"] = PODS["SecretMissing"]
    cluster.wait(3600)
    assert ready(cluster)[2] == "Reconciling"
    cluster.wait(1)
    assert ready(cluster)[2] == "Stalled"


def test_a_replacement_pod_has_its_own_deadline() -> None:
    cluster = at("train")
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    cluster.settle()
    cluster.wait(86_400)
    controllers.evict(cluster, controllers.pod_of_stage(cluster, "train"))
    controllers.stop(cluster, controllers.pod_of_stage(cluster, "train"))
    controllers.sync(cluster)
    controllers.pod_of_stage(cluster, "train")["status"] = PODS["ImagePullFailed"]
    cluster.wait(DEADLINE)
    assert ready(cluster)[::2] == ("ImagePullFailed", "Reconciling")
    cluster.wait(1)
    assert ready(cluster)[::2] == ("ImagePullFailed", "Stalled")


@pytest.mark.parametrize(
    ("reason", "note", "cause"),
    [
        ("FailedMount", 'MountVolume.SetUp failed: secret "hf" not found', "SecretMissing"),
        ("FailedMount", "references non-existent config key: rows.jsonl", "ConfigMapMissing"),
        ("FailedMount", "MountVolume.MountDevice failed", "VolumePending"),
        ("FailedAttachVolume", "Multi-Attach error for volume", "VolumePending"),
    ],
)
def test_reasons_that_only_events_contain(reason: str, note: str, cause: str) -> None:
    cluster = at("train")
    pod = controllers.pod_of_stage(cluster, "train")
    cluster.events = [event(pod, reason, note, cluster.stamp())]
    assert ready(cluster)[::2] == (cause, "Reconciling")
    assert ready(cluster)[1].endswith(f" Kubelet: {note}.")
    controllers.start(cluster, pod)
    assert ready(cluster)[0] == "Training"


@pytest.mark.parametrize(
    ("note", "cause"),
    [
        ('pods "x" is forbidden: exceeded quota: gpu, requested: 1', "QuotaExceeded"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', "FailedCreate"),
    ],
)
def test_a_job_whose_first_pod_is_rejected(note: str, cause: str) -> None:
    cluster = Cluster()
    cluster.settle()
    (job,) = cluster.each("Job")
    older = event(job, "FailedCreate", "something else", "2029-01-01T00:00:00Z")
    cluster.events = [event(job, "FailedCreate", note, cluster.stamp()), older]
    cluster.wait(DEADLINE)
    assert ready(cluster)[::2] == (cause, "Reconciling")
    assert ready(cluster)[1].endswith(f" API server: {note}.")
    cluster.wait(1)
    assert ready(cluster)[2] == "Stalled"
    controllers.sync(cluster)
    assert ready(cluster)[::2] == ("Preparing", "Reconciling")


def test_a_job_whose_replacement_pod_is_rejected() -> None:
    cluster = at("train")
    pod = controllers.pod_of_stage(cluster, "train")
    (job,) = (each for each in cluster.each("Job") if "-train-" in each["metadata"]["name"])
    refused = event(job, "FailedCreate", "exceeded quota", cluster.stamp())
    cluster.events = [refused]
    cluster.wait(3600)
    controllers.finish(cluster, pod, 1)
    assert ready(cluster)[0] == "Training", "rejections before that pod do not count"
    cluster.wait(1)
    refused["series"] = {"lastObservedTime": cluster.stamp()}
    assert ready(cluster)[::2] == ("QuotaExceeded", "Reconciling")


@pytest.mark.parametrize("failed_before", [False, True])
def test_a_disrupted_pods_wait_counts_from_its_first_rejection(failed_before: bool) -> None:
    """The pod that was disrupted is gone; one that failed before it is kept by its Job."""
    cluster = at("train")
    (job,) = (each for each in cluster.each("Job") if "-train-" in each["metadata"]["name"])
    before = event(job, "FailedCreate", "exceeded quota: before", "2029-12-31T23:59:59Z")
    if failed_before:
        controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
        cluster.settle()
        cluster.wait(60)
        controllers.finish(cluster, controllers.pod_of_stage(cluster, "train"), 1)
        controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    cluster.settle()
    cluster.wait(86_400)
    cluster.remove(controllers.pod_of_stage(cluster, "train"))
    cluster.events = [before]
    assert ready(cluster)[::2] == ("Training", "Reconciling"), "older events do not count"
    first = event(job, "FailedCreate", "exceeded quota: first", cluster.stamp())
    cluster.events = [before, first]
    cluster.wait(DEADLINE)
    cluster.events += [event(job, "FailedCreate", "exceeded quota: last", cluster.stamp())]
    reason, message, kind = ready(cluster)
    assert (reason, kind) == ("QuotaExceeded", "Reconciling")
    assert message.endswith(" API server: exceeded quota: last.")
    cluster.wait(1)
    assert ready(cluster)[::2] == ("QuotaExceeded", "Stalled")
    cluster.events = []
    assert ready(cluster)[::2] == ("Training", "Reconciling"), "no event reports it any more"


def test_a_rejection_that_began_before_the_disrupted_pod_and_repeats() -> None:
    cluster = at("train")
    (job,) = (each for each in cluster.each("Job") if "-train-" in each["metadata"]["name"])
    cluster.events = [event(job, "FailedCreate", "exceeded quota", "2029-01-01T00:00:00Z")]
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    cluster.settle()
    cluster.wait(86_400)
    cluster.remove(controllers.pod_of_stage(cluster, "train"))
    cluster.events[0]["series"] = {"lastObservedTime": cluster.stamp()}
    assert ready(cluster)[::2] == ("QuotaExceeded", "Reconciling")


NOT_BOUND = "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind."


@pytest.mark.parametrize(
    ("said", "explained"),
    [
        (
            "2 node(s) didn't match Pod's node affinity/selector",
            "No available node has the label nvidia.com/gpu.product=NVIDIA-T4, which "
            "spec.placement.nodeSelector requires. ",
        ),
        (
            "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
            "1 node(s) had untolerated taint {nvidia.com/gpu: present}",
            "The pod does not tolerate the taint nvidia.com/gpu of a node. ",
        ),
        (
            "1 Insufficient nvidia.com/gpu, 1 node(s) didn't match Pod's node affinity/selector",
            "No suitable node has a free GPU (nvidia.com/gpu). ",
        ),
        (
            "2 Insufficient cpu, 2 Insufficient memory",
            "No suitable node has enough free cpu and memory. The pod requests cpu 3 and memory "
            "64Gi. Lower spec.resources.train.requests",
        ),
        (
            "2 node(s) didn't match PersistentVolume's node affinity",
            "No suitable node can mount the job's volume, which is bound to one zone or node. ",
        ),
        ("2 node(s) were unschedulable", "A node is cordoned. "),
        ("2 node(s) didn't have free ports", "No node fits the pod."),
    ],
)
def test_an_explanation_comes_before_the_schedulers_message(said: str, explained: str) -> None:
    requests = {"requests": {"cpu": "3", "memory": "64Gi"}}
    spec = {
        "placement": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-T4"}},
        "resources": {"train": requests},
    }
    cluster = at("train", spec)
    trailer = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    for end in ("", f" no new claims to deallocate, {trailer}", f" {trailer}"):
        message = f"0/2 nodes are available: {said}."
        controllers.pod_of_stage(cluster, "train")["status"] = unscheduled(message + end)
        reason, text, _ = ready(cluster)
        assert reason == "Unschedulable"
        assert text.startswith(explained)
        assert text.endswith(f" Scheduler: {message}")


@pytest.mark.parametrize(
    ("stage", "spec", "origin"),
    [
        ("train", {}, "which the chart value gpu.products requires"),
        (
            "train",
            {"placement": {"nodeSelector": {"pool": "b"}}},
            "which spec.placement.nodeSelector requires",
        ),
        (
            "serve",
            {"serving": {"placement": {"nodeSelector": {"pool": "b"}}}},
            "which spec.serving.placement.nodeSelector requires",
        ),
    ],
)
def test_the_origin_of_a_required_label_is_named(stage: str, spec: Thing, origin: str) -> None:
    cluster = at(stage, spec)
    message = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    pod = controllers.pod_of_stage(cluster, stage)
    pod["status"] = unscheduled(message)
    assert origin in ready(cluster)[1]


def test_required_labels_of_a_node_affinity_are_alternatives() -> None:
    terms = [
        {"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]},
        {
            "matchExpressions": [
                {"key": "b", "operator": "In", "values": ["3"]},
                {"key": "c", "operator": "Exists"},
            ]
        },
    ]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    pod = {"spec": {"nodeSelector": {"pool": "x"}, "affinity": {"nodeAffinity": required}}}
    assert list(required_labels(pod)) == ["pool=x", "a in (1, 2) or b=3 and c exists"]


@pytest.mark.parametrize(
    ("storage_class", "event_text", "explained"),
    [
        (
            "fast",
            'storageclass.storage.k8s.io "fast" not found',
            "StorageClass fast does not exist. Set spec.storage.storageClassName to an existing "
            "StorageClass. To list them, run: kubectl get storageclass. ",
        ),
        (None, "", "PersistentVolumeClaim {claim} names no StorageClass, and the cluster has no "),
        (
            "slow",
            "no capacity",
            "PersistentVolumeClaim {claim} of StorageClass slow is not bound. Check the ",
        ),
    ],
)
def test_an_unbound_volume_is_explained_by_its_storage_class(
    storage_class: str | None, event_text: str, explained: str
) -> None:
    cluster = at("prepare")
    controllers.pod_of_stage(cluster, "prepare")["status"] = unscheduled(f"{NOT_BOUND} not found")
    (claim,) = cluster.each("PersistentVolumeClaim")
    name = claim["metadata"]["name"]
    if storage_class:
        claim["spec"]["storageClassName"] = storage_class
    if event_text:
        refused = event(claim, "ProvisioningFailed", event_text, cluster.stamp())
        refused["regarding"]["name"] = name
        cluster.events = [refused]
    reason, text, _ = ready(cluster)
    assert reason == "VolumePending"
    assert text.startswith(explained.format(claim=name))
    assert f" Scheduler: {NOT_BOUND}" in text
    assert "bind. not found" not in text
    assert text.endswith(f" PersistentVolumeClaim {name}: {event_text}." if event_text else ".")


@pytest.mark.parametrize("rejected_before", [False, True])
@pytest.mark.parametrize(
    ("phase", "type_", "reported"),
    [("Pending", "Warning", True), ("Pending", "Normal", False), ("Bound", "Warning", False)],
)
def test_a_volume_that_cannot_be_provisioned_is_reported_before_the_scheduler_gives_up(
    phase: str, type_: str, reported: bool, rejected_before: bool
) -> None:
    """The scheduler has chosen a node, and waits for the volume without a new condition."""
    cluster = at("prepare")
    if rejected_before:
        controllers.pod_of_stage(cluster, "prepare")["status"] = PODS["Unschedulable"]
    (claim,) = cluster.each("PersistentVolumeClaim")
    name = claim["metadata"]["name"]
    claim["metadata"]["annotations"] = {"volume.kubernetes.io/selected-node": "a"}
    claim["spec"]["storageClassName"] = "slow"
    claim["status"] = {"phase": phase}
    failed = event(claim, "ProvisioningFailed", "disk quota exceeded", cluster.stamp())
    failed["regarding"]["name"] = name
    cluster.events = [{**failed, "type": type_}]
    reason, text, _ = ready(cluster)
    if not reported:
        assert reason == ("Unschedulable" if rejected_before else "Preparing")
        return
    assert reason == "VolumePending"
    assert text.startswith(f"PersistentVolumeClaim {name} of StorageClass slow is not bound. ")
    assert text.endswith(f" -n ns. PersistentVolumeClaim {name}: disk quota exceeded.")


def test_a_volume_that_is_being_provisioned_is_reported_after_a_grace_period() -> None:
    cluster = at("prepare")
    controllers.pod_of_stage(cluster, "prepare")["status"] = unscheduled(NOT_BOUND)
    (claim,) = cluster.each("PersistentVolumeClaim")
    claim["spec"]["storageClassName"] = "slow"
    cluster.wait(PROVISIONING_SECONDS - 1)
    assert ready(cluster)[0] == "Preparing"
    cluster.wait(1)
    assert ready(cluster)[0] == "VolumePending"


def test_a_clock_that_was_set_back_hides_no_cause() -> None:
    cluster = at("train")
    controllers.pod_of_stage(cluster, "train")["status"] = PODS["Unschedulable"]
    cluster.wait(-3600)
    assert ready(cluster)[0] == "Unschedulable"


@pytest.mark.parametrize(
    ("note", "cause", "explained"),
    [
        (
            'secret "hf" not found',
            "SecretMissing",
            "Secret hf does not exist. Create it in namespace {namespace}, with the key that "
            "tokenSecretRef names, the key .dockerconfigjson for oci.secretRef, or, for "
            "s3.secretRef, the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. ",
        ),
        (
            "couldn't find key token in Secret team/hf",
            "SecretMissing",
            "Secret hf has no key token. Add the key to it in ",
        ),
        (
            "references non-existent secret key: token",
            "SecretMissing",
            "A Secret of the job has no key token. ",
        ),
        ('configmap "rows" not found', "ConfigMapMissing", "ConfigMap rows does not exist. "),
        (
            "references non-existent config key: rows.jsonl",
            "ConfigMapMissing",
            "A ConfigMap of the job has no key rows.jsonl. ",
        ),
    ],
)
def test_a_missing_object_or_key_is_named(note: str, cause: str, explained: str) -> None:
    cluster = at("train")
    pod = controllers.pod_of_stage(cluster, "train")
    pod["status"] = waiting("CreateContainerConfigError", note)
    reason, text, _ = ready(cluster)
    assert reason == cause
    assert text.startswith(explained.format(namespace=pod["metadata"]["namespace"]))
    assert text.endswith(f" Kubelet: {note}.")


def queued() -> tuple[Cluster, Thing]:
    """Return a cluster whose train Job a queue has suspended at its creation, and that Job."""
    cluster = Cluster()
    cluster.edit(queueName="gpu")
    controllers.run(cluster, "prepare")
    cluster.settle()
    (job,) = (each for each in cluster.each("Job") if "-train-" in each["metadata"]["name"])
    job["spec"]["suspend"] = True
    cluster.settle()
    return cluster, job


def suspension(cluster: Cluster) -> tuple[str, str]:
    """Return status and reason of the condition Suspended."""
    (found,) = (each for each in cluster.plan().status["conditions"] if each["type"] == "Suspended")
    return found["status"], found["reason"]


def test_a_suspended_job_is_queued() -> None:
    cluster, job = queued()
    cluster.wait(7 * 86_400)
    assert ready(cluster)[::2] == ("Queued", "Reconciling")
    assert "queue gpu" in ready(cluster)[1]
    assert suspension(cluster) == ("True", "Queued")
    note = 'no WorkloadPriorityClass "research" found'
    cluster.events = [event(job, "WorkloadPriorityClassNotFound", note, cluster.stamp())]
    assert ready(cluster)[1].endswith(f": {note}.")


def test_a_job_whose_workload_is_finished_is_stalled_until_an_edit() -> None:
    cluster, job = queued()
    note = "Workload 'team/job-demo' is declared finished"
    given_up = event(job, "FinishedWorkload", note, cluster.stamp())
    cluster.events = [{**given_up, "type": "Normal"}]
    cluster.settle()
    cluster.events = []
    cluster.wait(7 * 86_400)
    assert ready(cluster)[::2] == ("FailedToStart", "Stalled"), (
        "the ledger has it when the event expired"
    )
    assert f"kueue.x-k8s.io/job-uid={job['metadata']['uid']} " in ready(cluster)[1]

    cluster.edit(placement={"nodeSelector": {"pool": "b"}})
    cluster.settle()
    controllers.sync(cluster)
    cluster.settle()
    assert ready(cluster)[::2] == ("Training", "Reconciling")
    (attempt,) = (s for s in cluster.status["revisions"][0]["stages"] if s["stage"] == "train")
    assert (attempt["attempt"], attempt.get("reason")) == (2, None)
    assert cluster.get("Job", job["metadata"]["name"]) is None


def test_a_job_whose_workload_was_finished_and_is_admitted_later_trains() -> None:
    cluster, job = queued()
    cluster.events = [event(job, "FinishedWorkload", "declared finished", cluster.stamp())]
    cluster.settle()
    job["spec"]["suspend"] = False
    controllers.sync(cluster)
    assert ready(cluster)[::2] == ("Training", "Reconciling")


def test_normal_events_of_a_queue_are_not_quoted_as_a_cause() -> None:
    cluster, job = queued()
    created = event(job, "CreatedWorkload", "Created Workload: team/job-demo", cluster.stamp())
    cluster.events = [{**created, "type": "Normal"}]
    assert ready(cluster)[1].endswith(" is waiting for queue gpu to admit it.")


def test_a_job_suspended_before_a_pod_ran_is_queued_again() -> None:
    cluster, job = queued()
    job["spec"]["suspend"] = False
    controllers.sync(cluster)
    cluster.settle()
    assert ready(cluster)[0] == "Training"
    cluster.remove(controllers.pod_of_stage(cluster, "train"))
    job["spec"]["suspend"] = True
    assert ready(cluster)[::2] == ("Queued", "Reconciling")


def test_a_preempted_job_that_is_admitted_again() -> None:
    cluster, job = queued()
    job["spec"]["suspend"] = False
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    cluster.settle()
    cluster.remove(controllers.pod_of_stage(cluster, "train"))
    job["spec"]["suspend"] = True
    cluster.settle()
    cluster.wait(86_400)
    assert ready(cluster)[::2] == ("Preempted", "Reconciling")
    assert suspension(cluster) == ("True", "Preempted")
    assert [each.reason for each in cluster.plan().events] == [], "an event for each transition"
    job["spec"]["suspend"] = False
    controllers.sync(cluster)
    assert ready(cluster)[0] == "Training"
    assert suspension(cluster) == ("False", "Running")
    (attempt,) = (s for s in cluster.status["revisions"][0]["stages"] if s["stage"] == "train")
    assert attempt["attempt"] == 1, "it is the same Job"


def warned(cluster: Cluster) -> bool:
    """Report whether a warning says that no queue admitted the train Job."""
    words = "the train Job started without admission by a queue"
    return any(words in each for each in cluster.plan().status["warnings"])


def test_a_queue_that_holds_nothing_raises_a_warning() -> None:
    cluster = at("train", {"queueName": "gpu"})
    assert not warned(cluster), "a queue may still suspend the Job"
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    assert warned(cluster)


@pytest.mark.parametrize("mark", ["condition", "label"])
def test_a_job_that_a_queue_admitted_has_no_such_warning(mark: str) -> None:
    cluster = at("train", {"queueName": "gpu"})
    (job,) = (each for each in cluster.each("Job") if "-train-" in each["metadata"]["name"])
    if mark == "condition":
        controllers.suspend(cluster, job)
        controllers.admit(cluster, job)
        for pod in controllers.pods_of(cluster, job):
            cluster.remove(pod)
        controllers.sync(cluster)
    else:
        job["spec"]["template"]["metadata"]["labels"]["kueue.x-k8s.io/podset"] = "main"
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    assert not warned(cluster)


def test_a_job_suspended_by_a_default_queue_is_queued() -> None:
    cluster = at("prepare")
    (job,) = cluster.each("Job")
    cluster.remove(controllers.pod_of_stage(cluster, "prepare"))
    job["spec"]["suspend"] = True
    assert ready(cluster)[::2] == ("Queued", "Reconciling")


@pytest.mark.parametrize(
    ("age", "seconds"), [(0.0, 15.0), (299.0, 15.0), (300.0, 60.0), (9e4, 60.0)]
)
def test_requeue_interval_while_training(age: float, seconds: float) -> None:
    cluster = at("train")
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    cluster.wait(age)
    assert cluster.plan().requeue_after == seconds


def test_a_finished_job_is_not_requeued() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    assert cluster.plan().requeue_after is None


def rollout_failed(deployment: Thing) -> None:
    deployment["status"]["conditions"] = [
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    ]


def test_an_endpoint_that_never_becomes_ready() -> None:
    cluster = at("serve")
    controllers.start(cluster, controllers.pod_of_stage(cluster, "serve"))
    (deployment,) = cluster.each("Deployment")
    rollout_failed(deployment)
    assert ready(cluster)[::2] == ("Starting", "Reconciling"), "the pod was scheduled a moment ago"
    cluster.wait(deployment["spec"]["progressDeadlineSeconds"])
    reason, message, kind = ready(cluster)
    assert (reason, kind) == ("ProgressDeadlineExceeded", "Stalled")
    assert f"kubectl logs deployment/{deployment['metadata']['name']}" in message


def test_the_failure_of_an_earlier_template_is_not_applied_to_the_next() -> None:
    cluster = at("serve")
    (deployment,) = cluster.each("Deployment")
    rollout_failed(deployment)
    deployment["metadata"]["generation"] += 1
    assert ready(cluster)[::2] == ("Starting", "Reconciling")


def test_an_available_deployment_without_pods_does_not_serve() -> None:
    cluster = at("serve")
    (deployment,) = cluster.each("Deployment")
    status: dict[str, Any] = {"observedGeneration": 1, "updatedReplicas": 1}
    deployment["status"] = {**status, "conditions": [{"type": "Available", "status": "True"}]}
    assert ready(cluster)[::2] == ("Starting", "Reconciling")
    deployment["status"] = {**status, "availableReplicas": 1}
    cluster.settle()
    assert cluster.status["conditions"][0]["status"] == "True"
