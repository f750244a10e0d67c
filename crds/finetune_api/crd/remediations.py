"""What to do about each reason: the groups of docs/reference/reasons.md, with their texts.

``Reason.doc`` states the meaning. The texts here name frequent causes and the remediation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.v1alpha1.reasons import Reason

_MESSAGE = "Correct the problem that the message describes."


@dataclass(frozen=True, kw_only=True)
class ReasonGroup:
    """A section of the page."""

    title: str
    about: str
    texts: Mapping[Reason, str]


PROGRESS = ReasonGroup(
    title="In progress or complete",
    about="With these reasons, the job needs no action.",
    texts={
        Reason.PREPARING: "PROGRESS shows the completed part of the download.",
        Reason.TRAINING: "PROGRESS shows the completed part of the steps, then `save` (the adapter "
        "is written) and `reference` (the trained model scores sample rows).",
        Reason.MERGING: "The stage runs on a CPU.",
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
        Reason.OVER_BUDGET: "The job holds no GPU, and starts by itself when the period of the "
        "budget ends or when other jobs leave room; the message has the numbers and the date. To "
        "start earlier, lower `runPolicy.maxGpuSeconds`, or ask your cluster administrator for a "
        "larger budget ([budgets](../how-to/budgets.md)).",
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

_REUSE = "#reuse-the-downloads-without-the-status"
_COPY = "../how-to/copy-the-model.md#copy-from-a-terminating-volume"
_LOST = "../concepts/finetunejob.md#a-deleted-volume-of-a-finished-job"
_DEFAULTS = "../how-to/tenant-policy.md#give-all-jobs-a-default-credential"
_EGRESS = "../how-to/data-sources.md#network-access"
_SIGNATURES = "../how-to/sign-and-verify-models.md#require-signatures-of-sources"
_LOG = "Read the log of the stage, and correct the cause."

FAILED = ReasonGroup(
    title="Failed",
    about="Change the job, or an object to which it refers; the operator then starts another "
    "attempt. Where the text says that the job continues, no change is needed.",
    texts={
        Reason.INVALID_SPEC: "Change the field that the message names, or upgrade the operator if "
        "this version does not support the field.",
        Reason.NOT_ALLOWED: "Running stages and serving pods continue. Set the field that the "
        "message names to an allowed value, or ask your cluster administrator to change the chart "
        "value ([policy](../how-to/tenant-policy.md)) or the limit of the profile "
        "([profiles](../how-to/profiles.md)). The job then continues.",
        Reason.ADAPTER_NOT_PUBLISHED: "Correct the name or the revision in "
        "`spec.training.startFrom.job`, or let that job [publish its adapter]"
        "(../how-to/publish-models.md), or set the credentials that the message names. The "
        "operator looks for the adapter every 30 seconds, and the job then continues.",
        Reason.PROFILE_NOT_FOUND: "Revisions that have started continue. Set `spec.profile` to a "
        "profile that `kubectl get finetuneprofiles` lists, or create the profile; the job then "
        "continues.",
        Reason.TOO_EXPENSIVE: "No GPU was requested. Raise `runPolicy.maxCost`, limit the training "
        "with `runPolicy.maxGpuSeconds`, shorten it, or choose a cheaper profile "
        "([cost](../how-to/cost.md)).",
        Reason.PRICE_UNKNOWN: "Set `spec.profile` to a profile with a price, or remove "
        "`runPolicy.maxCost`. The price is fixed when a revision starts; to get the present one, "
        "set `rerun`.",
        Reason.PROFILE_INVALID: "Revisions that have started continue. The message has the problem "
        "of the profile, which your cluster administrator must correct; the job then continues.",
        Reason.BUDGET_UNAVAILABLE: "Running stages continue. Your cluster administrator must "
        "correct the budget, or set the chart value `usage.enabled`; the job then continues.",
        Reason.COST_UNKNOWN: "Set `runPolicy.maxGpuSeconds`, or `profile` to a profile with a "
        "price in the currency of the budget, as the message says; the job then continues.",
        Reason.EXCEEDS_BUDGET: "Waiting does not help. Lower `runPolicy.maxGpuSeconds`, train on "
        "fewer rows or epochs, or ask your cluster administrator to enlarge the budget that the "
        "message names; the job then continues.",
        Reason.UNSUPPORTED_VERSION: "The operator changes no object of the job. Run the version "
        "that wrote the ledger (`status.revisions`) or a newer one, or delete and re-create the "
        "job, which then starts from the beginning.",
        Reason.CONFIGURATION_CHANGED: "If the message asks for it, delete the object that it "
        "names. The operator creates it again within five minutes, and the job continues.",
        Reason.FAILED_TO_START: "A ResourceFlavor or an admission check conflicts with the pod: "
        "`kubectl get workloads -n <namespace> -l kueue.x-k8s.io/job-uid=<uid of the Job> -o "
        "yaml`. Kueue does not try again: change `placement` or `queueName` to queue a new "
        "attempt.",
        Reason.NAME_CONFLICT: "The operator does not modify the object. Delete it, and the job "
        "continues, or create the job with another name. You can "
        f"[reuse](../how-to/backup.md{_REUSE}) the downloads on a volume of an earlier job.",
        Reason.DATASET_INVALID: "The message names file and row, or the choices if the source has "
        "several [configurations](../how-to/data-sources.md#configurations-and-splits) or no such "
        "split. Correct the data, or `format`, `columns`, `config` or `split`. For several "
        "configurations in another source than the hub, set `source` to the folder of one of them.",
        Reason.DATASET_NOT_FOUND: "Correct the field `source` or `revision` that the message "
        "names.",
        Reason.MODEL_NOT_FOUND: "Correct `model.source` or `model.revision`.",
        Reason.ACCESS_DENIED: "The message names the cause. (1) The model is gated or private: "
        "accept its license on the hub, store a token of this account in the Secret of "
        "`tokenSecretRef`, and set this field in the job, because a [default "
        f"token]({_DEFAULTS}) applies only where it was configured. (2) A token or key is not one "
        "line of visible ASCII characters: store it under another Secret or key, and change the "
        "reference. (3) The `egress` values do not allow the address: let an administrator change "
        f"them ([network access]({_EGRESS})); the operator then retries the stage.",
        Reason.SOURCE_NOT_SIGNED: "The message names the field, the source, and the file or "
        "signature that does not match. Set the field to content that your administrator has "
        "signed, such as the published model of a job, or ask your administrator to [sign the "
        f"content]({_SIGNATURES}). After `policy.signatures` has changed, the operator retries the "
        "stage.",
        Reason.VOLUME_FULL: "Raise `storage.size` to the size in the message. Kubernetes expands "
        "the volume if the StorageClass supports it.",
        Reason.RESUME_REFUSED: "The message names the folder or file, and the expected digest. To "
        "retrain on a new volume, set `spec.rerun` to a new value.",
        Reason.CUDA_OUT_OF_MEMORY: "Lower `training.sequenceLength` or `training.lora.r`, or use a "
        "GPU with more memory.",
        Reason.DOES_NOT_FIT: "The message contains both numbers. Lower the field that it names "
        "(`training.sequenceLength`, `training.lora.r` or `serving.maxModelLen`), or raise the "
        "limit.",
        Reason.UNSUPPORTED_GPU: "The GPU must be a Turing or later, the driver R580 or later; the "
        "message contains the version that CUDA found. Update the driver, then change a field of "
        "`runPolicy`, or select other nodes with `placement.nodeSelector` or `gpu.products`.",
        Reason.LOSS_DIVERGED: "Lower `training.learningRate`, and check the dataset for outliers.",
        Reason.NOT_MERGEABLE: "Correct the problem in the message. To keep only the adapter, set "
        "`merge.enabled: false`.",
        Reason.BUDGET_EXCEEDED: "Raise `runPolicy.maxGpuSeconds`, or `runPolicy.maxCost` if it is "
        "set; training resumes from its last checkpoint.",
        Reason.OUT_OF_MEMORY: "Raise `resources.<stage>.limits.memory`. The operator has already "
        "tried `merge` again with twice the limit.",
        Reason.TOO_MANY_RESTARTS: "Failures and disruptions both count. Check the node, then raise "
        "`runPolicy.maxRestarts` to at least the number in the message; no other field starts the "
        "stage again. Training resumes from its last checkpoint.",
        Reason.VOLUME_LOST: "A running job restarts with data preparation; a finished job does not "
        f"train again. Save the model with [`ftj copy`]({_COPY}) if serving pods run, revert the "
        "spec to the revision that the message names, or set `spec.rerun` to train on a new "
        "volume. To stop the serving pods, which keep the volume and ignore edits, set "
        f"`serving.replicas` to 0 ([details]({_LOST})).",
        Reason.RETRIES_EXHAUSTED: f"{_LOG} If the cause was temporary, raise "
        "`runPolicy.backoffLimit`.",
        Reason.DEADLINE_EXCEEDED: "The download is slow, the pods did not start, or a chat "
        "template does not end. Raise `runPolicy.prepareDeadlineSeconds`; the download resumes. If "
        "the log shows no progress, correct `dataset.chatTemplate`.",
        Reason.RESULT_MISSING: "Read the log of the stage, and check that the chart value "
        "`trainer.image` is the trainer image of this operator.",
        Reason.INTERNAL_ERROR: "Report the bug, with the traceback from the log of the stage.",
        Reason.FAILED: _LOG,
        Reason.EVAL_GATE_FAILED: "Its held-out loss is more than two standard errors higher. "
        "Correct the data or the recipe. To serve it anyway, set the field that the message names "
        "(`evaluation.onRegression` or `onServingRegression`) to `Serve`.",
        Reason.VERIFICATION_FAILED: "Digests, tokens or log-probabilities differ; the message "
        "contains the numbers. Compare the serving image, its arguments and `serving.dtype` with "
        "the defaults of the chart. Log: `kubectl logs -n <namespace> <pod> -c verify`.",
        Reason.PUBLISH_FAILED: "Follow the remediation of the error in `status.publish`. To try "
        "again, change an entry of `publish`. The model is served all the same.",
        Reason.PUBLISH_WITHHELD: "The message contains the losses, or the outcome of the "
        "verification. Improve the model; or set `evaluation.onRegression` to `Serve`, or `allow` "
        "of the target to this outcome.",
        Reason.TARGET_CONFLICT: "Another job or a person has published under this name: choose "
        "another repository or tag, or set `overwrite` to true to move the tag. The name of a "
        "revision, `<job>-<revision>-adapter` or `<job>-<revision>-<build>-merged`, never moves.",
        Reason.TARGET_REJECTED: "The message quotes the answer of the registry or of the S3 "
        "service. Frequent causes are a quota, a limit of the size, and a read-only repository.",
        Reason.ROLLOUT_FAILED: "Follow the remediation of the reason in the message. To try again, "
        "change a field of `serving`; to keep the previous build, revert your change.",
        Reason.ENDPOINT_DOWN: "A node is lost, no GPU is free, or a container exits repeatedly: "
        "`kubectl describe pod -n <namespace> <pod>`. If there is no pod, a quota or policy may "
        "prevent it: `kubectl describe rs -n <namespace>`. The endpoint recovers when the cause is "
        "gone.",
        Reason.PROGRESS_DEADLINE_EXCEEDED: "Read the log of the serving pod. A frequent cause is a "
        "`serving.maxModelLen` that is too large for the GPU.",
    },
)

RETRIED = ReasonGroup(
    title="Retried",
    about="Only a pod or an attempt has ended, and the job continues. These reasons are in "
    "`status.revisions`, in events and in logs.",
    texts={
        Reason.JOB_DELETED: "The next attempt resumes from the last checkpoint. To pause a job, "
        "set `suspend: true` instead.",
        Reason.JOB_REPLACED: "The operator deletes the other Job and ignores its result. Find its "
        "client in the audit log, and restrict the permission of this client to create Jobs.",
        Reason.TRANSIENT: "The hub was unavailable, a download was interrupted, a disk failed "
        "(EIO), or a NetworkPolicy blocks the source. The Job starts up to "
        "`runPolicy.backoffLimit` more pods. Allow a source in the cluster, at a private address "
        f"or on another port than 443 in the `egress` values ([network access]({_EGRESS})).",
        Reason.STOPPED: "The pod was evicted or preempted, or you paused the job. The next attempt "
        "resumes from the last checkpoint.",
    },
)

EVENTS = ReasonGroup(
    title="Events",
    about="These reasons appear only in events. A job without incidents has four: `DataReady`, "
    "`Trained`, `Merged` and `Serving`.",
    texts={
        Reason.DATA_READY: "",
        Reason.TRAINED: "",
        Reason.MERGED: "",
        Reason.PUBLISHED: "`status.publish` has the reference and the digest of each target.",
        Reason.SUPERSEDED: "The message names the Job, and what the spec describes instead. If you "
        "revert the edit, the job continues with its earlier revision and the last checkpoint.",
        Reason.WARNING_RAISED: "Examples are few training steps, dropped rows, and a model that is "
        "worse than the serving model. The job continues. To list the warnings, run `kubectl get "
        "ftj <name> -o jsonpath='{.status.warnings}'`.",
        Reason.GPU_RELEASE_PLANNED: "`status.serving.releasePlannedAt` has the time, too. To keep "
        "the endpoint available, set `serving.rollout: KeepServing` before it.",
        Reason.RELEASE_DID_NOT_HELP: "The build keeps its GPU for the rest of the revision. The "
        "message of `Ready` states why the train pod does not start. To release the GPU again, set "
        "`serving.rollout: FreeGPU`.",
        Reason.DRIFT_CORRECTED: "The event names the client. To change a Deployment, Service or "
        "NetworkPolicy of the job, change its spec.",
    },
)

OTHER = ReasonGroup(
    title="Other conditions",
    about="The condition of a stage has one of the reasons above, or one of these, as have the "
    "conditions `Suspended` and `Serving`.",
    texts=dict.fromkeys(
        (
            Reason.PENDING,
            Reason.PUBLISHING,
            Reason.RUNNING,
            Reason.FINISHED,
            Reason.AVAILABLE,
            Reason.NOT_AVAILABLE,
            Reason.GPU_RELEASED,
            Reason.DISABLED,
        ),
        "",
    ),
)

PROFILES = ReasonGroup(
    title="Condition Valid of a FineTuneProfile",
    about="While a profile is not valid, jobs start no new revision with it. The message names the "
    "field.",
    texts={
        Reason.VALID: "No action.",
        Reason.INVALID_DEFAULTS: "Correct `spec.defaults`: it is a partial spec of a FineTuneJob, "
        "and its values must be allowed by the chart value `policy` and by the limits of the "
        "profile.",
        Reason.INVALID_LIMITS: "Correct the pattern that the message names. Until then, jobs with "
        "the profile start no stage.",
        Reason.TOO_LARGE: "Set long values, such as `dataset.chatTemplate`, in the jobs instead.",
    },
)

BUDGETS = ReasonGroup(
    title="Conditions of a FineTuneBudget",
    about="`Valid` says whether the budget applies, `Exhausted` how much of it is left. The "
    "message has the numbers.",
    texts={
        Reason.USAGE_DISABLED: "Set the chart value `usage.enabled` to true, or delete the budget. "
        "Until then, no job of its namespaces starts to train.",
        Reason.WITHIN_BUDGET: "No action.",
        Reason.NEAR_LIMIT: "Inform the teams, or enlarge the budget.",
        Reason.EXHAUSTED: "Jobs wait for the next period. Enlarge the budget if they must not "
        "wait. `spec.onExhausted` decides about running jobs.",
    },
)

ENDPOINTS = ReasonGroup(
    title="Conditions of a FineTuneEndpoint",
    about="`Ready` is True while the endpoint serves every model that it can. `status.models` has "
    "the state of each model. Reasons about pods and volumes are those of jobs.",
    texts={
        Reason.PREPARING_BASE: "No action. The pod needs no GPU.",
        Reason.VERIFYING: "No action. The message names the models.",
        Reason.SIGNING_KEY_MISSING: "Ask your cluster administrator to set the chart value "
        "`provenance.signingKeySecret`.",
        Reason.WANTED_SET_REFUSED: "The message says why. The reason is common for a moment after "
        "the signing key was replaced. If it lasts, delete the pod of the endpoint.",
        Reason.ENDPOINT_FULL: "Raise `spec.lora.maxAdapters` of the endpoint, which replaces its "
        "pod, or delete a job that is not needed.",
    },
)

LOGS = ReasonGroup(
    title="Log of the operator",
    about="",
    texts={
        Reason.CRD_MISSING: "The operator exits. Run `kubectl apply --server-side -f "
        "crds/finetune.dev_finetunejobs.yaml`.",
        Reason.API_UNAVAILABLE: "No action: the delays between the attempts grow to one minute. "
        "If `waiting for the API server` repeats after a start, the NetworkPolicy of the operator "
        "may block its port: add it to the chart value `networkPolicy.apiServerPorts`.",
        Reason.NOT_FOUND: "No action: the next reconcile detects the deletion.",
        Reason.NOT_LEADING: "No action: the leader reconciles the job.",
        Reason.CONFLICT: "No action: the operator reconciles the job again at once.",
        Reason.ERROR: "Correct the problem that the message describes.",
    },
)

GROUPS = (PROGRESS, WAITING, FAILED, RETRIED, EVENTS, OTHER, PROFILES, BUDGETS, ENDPOINTS, LOGS)
