"""Reasons of a job that runs, serves or waits."""

from finetune_api.crd.remediations.group import ReasonGroup
from finetune_api.v1alpha1.reasons import Reason

_MESSAGE = "Correct the problem that the message describes."
PROGRESS = ReasonGroup(
    title="In progress or complete",
    about="With these reasons, the job needs no action.",
    texts={
        Reason.PREPARING: "PROGRESS shows the completed part of the download.",
        Reason.TRAINING: "PROGRESS shows the completed part of the steps, then `save` (the adapter "
        "is written) and `reference` (the trained model scores sample rows).",
        Reason.MERGING: "The stage runs on a CPU.",
        Reason.PUBLISHING: "With `Ready`, the adapter is copied to the volume of the "
        "FineTuneEndpoint, which then loads it.",
        Reason.STARTING: "PROGRESS shows the part of the model files that vLLM has read, then "
        "`verify` (the verifier compares the served model with the record of its training).",
        Reason.RESTARTING: "If the endpoint stays down, the reason becomes `EndpointDown`.",
        Reason.SERVING: "`Ready` is True.",
        Reason.SCALED_TO_ZERO: "The model is complete, and `Ready` is True. To serve it, set "
        "`serving.replicas` to 1 or more.",
        Reason.IDLE: "The model is complete, and `Ready` is True. To serve it again, [wake the "
        "endpoint](../how-to/idle-endpoints.md#wake-an-endpoint).",
        Reason.COMPLETED: "If serving is disabled and the model is complete, `Ready` is True.",
    },
)
WAITING = ReasonGroup(
    title="Waiting",
    about="The job continues when the cause is gone. A reason with the mark * makes the job "
    "`Stalled` if it lasts longer than `runPolicy.pendingDeadlineSeconds`; even then, the job "
    "continues when the cause is gone.",
    texts={
        Reason.SUSPENDED_BY_USER: "Set `spec.suspend` to false. Training then resumes from its "
        "last checkpoint.",
        Reason.QUEUED: "To see the queue, run `kubectl get workloads -n <namespace>`.",
        Reason.QUEUE_NOT_FOUND: "Create a LocalQueue with this name in the namespace of the "
        "job, or set `spec.queueName` to one that `kubectl get localqueues -n <namespace>` lists. "
        "The name may come from the profile of the job ([Kueue](../how-to/kueue.md)).",
        Reason.OVER_BUDGET: "The job holds no GPU, and starts by itself when the period of the "
        "budget ends or when other jobs leave room; the message has the numbers and the date. To "
        "start earlier, lower `runPolicy.maxGpuSeconds`, or ask your cluster administrator for a "
        "larger budget ([budgets](../how-to/budgets.md)).",
        Reason.SERVING_OVER_BUDGET: "The endpoint starts by itself when the period of the budget "
        "ends or when other endpoints leave room; the model of a job is complete. To make room, "
        "set `serving.replicas` of another job to 0, delete a FineTuneEndpoint, or ask your "
        "cluster administrator for a larger budget ([budgets]("
        "../how-to/budgets.md#limit-endpoints)).",
        Reason.APPROVAL_NEEDED: "Send the message to your cluster administrator, who adds its "
        "entry to `spec.approvals` of the budget. An edit that changes the revision, or raises the "
        "limit of the job above that of the approval, needs another one ([budgets]("
        "../how-to/budgets.md#approve-a-large-job)).",
        Reason.PREEMPTED: "A job with a higher priority needed the GPU. Training resumes from its "
        "last checkpoint when Kueue admits the Job again. `workloadPriorityClassName` sets the "
        "priority.",
        Reason.UNSCHEDULABLE: "No GPU is free, no node has the required labels, the nodes have "
        "taints, or the volume is in another zone; the message contains that of the scheduler and, "
        "for a missing label, the field or chart value that requires it. Free a GPU, label a "
        "node, or change `placement` or the chart value `gpu.products` ([GPU "
        "models](../how-to/gpu-models.md)). If the job's own endpoint uses the GPU, the message "
        "states when it is released, or why it is not ([single GPU](../how-to/single-gpu.md)). If "
        "the volume is in a zone without GPUs, delete the job, set `placement.zones`, and create "
        "it again.",
        Reason.ENDPOINT_FULL: "Raise `spec.lora.maxAdapters` of the FineTuneEndpoint, which "
        "replaces its pod, or delete a job that is not needed; the job then continues. The "
        "serving build continues to serve.",
        Reason.SECRET_MISSING: "Create the Secret with this key in the job's namespace. The "
        "kubelet tries again every few seconds. Fields: `tokenSecretRef`, `s3.secretRef`, "
        "`serving.apiKeySecretRef`.",
        Reason.CONFIG_MAP_MISSING: "Create the ConfigMap with this key in the job's namespace. "
        "Fields: a `configmap://` source, `caConfigMapRef`.",
        Reason.IMAGE_PULL_FAILED: "Create the Secrets of `imagePullSecrets` in the job's "
        "namespace, or correct the image in the chart values. A revision takes a corrected trainer "
        "image as long as none of its containers has started, and corrected images of serving pods "
        "as long as none of these has started. Otherwise, provide the image under its name.",
        Reason.VOLUME_PENDING: "The StorageClass does not exist, the cluster has no default class, "
        "no capacity is left, or the claim is terminating. Set `storage.storageClassName` to a "
        "class that `kubectl get storageclass` lists, or stop the other pods that use the volume. "
        "`kubectl describe pvc -n <namespace>` shows other causes. An unbound volume without a "
        "warning event is reported after 30 seconds.",
        Reason.QUOTA_EXCEEDED: "Raise the quota, or lower `resources` or `storage.size`.",
        Reason.FAILED_CREATE: "Remove the cause that the response of the API server names: change "
        "the policy, create the ServiceAccount, or change the field of the job that it names.",
        Reason.CREATE_CONTAINER_CONFIG_ERROR: f"An example is an image that runs as root. "
        f"{_MESSAGE}",
        Reason.CREATE_CONTAINER_ERROR: _MESSAGE,
        Reason.RUN_CONTAINER_ERROR: "Correct the image or the chart value `serving.command`.",
        Reason.CRASH_LOOP_BACK_OFF: "Frequent causes are a memory limit that is too low and a "
        "`serving.maxModelLen` that is too large for the GPU. To find the cause, run `kubectl logs "
        "-n <namespace> <pod> --previous`, then correct the setting.",
        Reason.WAITING_FOR_POD: "The operator waits, so that two trainers never write to one "
        "volume. The pod ends within its grace period; if its node is lost, delete the Node.",
        Reason.WAITING_FOR_VOLUME: "You deleted the volume or an earlier job of this name, or "
        "edited the storage settings of an unbound volume. The operator stops and deletes the Jobs "
        "of the revision; delete other pods that the message names. A deletion cannot be canceled. "
        "The job continues with a new volume.",
        Reason.WAITING_FOR_CLEANUP: "The deletion takes seconds. If an object remains, a finalizer "
        "keeps it: `kubectl get <kind> <name> -n <namespace> -o yaml`.",
        Reason.RESERVING: "This takes seconds. If it lasts, see the log of the operator.",
    },
)
STALLS_AFTER_DEADLINE = (
    Reason.SECRET_MISSING,
    Reason.CONFIG_MAP_MISSING,
    Reason.IMAGE_PULL_FAILED,
    Reason.VOLUME_PENDING,
    Reason.QUOTA_EXCEEDED,
    Reason.FAILED_CREATE,
    Reason.CREATE_CONTAINER_CONFIG_ERROR,
    Reason.CREATE_CONTAINER_ERROR,
    Reason.RUN_CONTAINER_ERROR,
    Reason.CRASH_LOOP_BACK_OFF,
)
