"""Every reason that a condition, an event, an attempt or a log line of a FineTuneJob may have.

Reasons are part of the API: alerts, GitOps health checks and scripts compare them. Code has
no literal reasons. docs/reference/reasons.md is generated from ``doc`` and ``uses``.

The module is longer than others, because an enum cannot be split, and because each reason is added
in this place alone. ``crd.remediations`` has the texts about what to do.
"""

from enum import StrEnum

from finetune_api.base import DocumentedEnum


class Use(StrEnum):
    """Where a reason appears. Reasons of Ready that need attention are also recorded as events."""

    READY = "Ready"
    CONDITION = "another condition"
    EVENT = "event"
    ATTEMPT = "attempt in status.revisions"
    PUBLICATION = "status.publish"
    PROFILE = "`Valid` of a FineTuneProfile"
    BUDGET = "condition of a FineTuneBudget"
    ENDPOINT = "condition of a FineTuneEndpoint"
    LOG = "log of the operator"


READY, CONDITION, EVENT, ATTEMPT, PUBLICATION, PROFILE, BUDGET, ENDPOINT, LOG = Use
FAILURE = (READY, ATTEMPT)


class Reason(DocumentedEnum):
    """A reason, its meaning in one line, and the places where it appears."""

    # In progress, or done.
    PREPARING = ("Preparing", "The prepare pod prepares the model and the dataset.", READY)
    TRAINING = ("Training", "The train pod is training the adapter.", READY)
    MERGING = ("Merging", "The merge pod is merging the base model and the adapter.", READY)
    STARTING = (
        "Starting",
        "Conditions `Ready` and `Serving`: the endpoint is loading the model. Condition of a "
        "stage: the operator created the Job of the stage.",
        READY,
        CONDITION,
    )
    PUBLISHING = (
        "Publishing",
        "The publish pod uploads the adapter or the merged model. Conditions `Published`, and "
        "`Ready` with `serving.mode: shared`.",
        READY,
        CONDITION,
    )
    RESTARTING = ("Restarting", "The endpoint is down and its pods are restarting.", READY)
    SERVING = ("Serving", "The endpoint answers requests.", READY)
    SCALED_TO_ZERO = ("ScaledToZero", "`spec.serving.replicas` is 0.", READY, CONDITION)
    IDLE = (
        "Idle",
        "The endpoint got no requests for `spec.serving.idle.afterSeconds`, and its pods were "
        "stopped.",
        READY,
        CONDITION,
    )
    COMPLETED = (
        "Completed",
        "The stage or the whole job has completed.",
        READY,
        CONDITION,
        ATTEMPT,
    )

    # Waiting.
    SUSPENDED_BY_USER = ("SuspendedByUser", "`spec.suspend` is true.", READY, CONDITION)
    QUEUED = ("Queued", "Kueue has not admitted the train Job yet.", READY, CONDITION)
    QUEUE_NOT_FOUND = (
        "QueueNotFound",
        "The LocalQueue of the job does not exist in its namespace.",
        READY,
    )
    OVER_BUDGET = (
        "OverBudget",
        "The training does not fit into what a FineTuneBudget has left in this period.",
        READY,
        CONDITION,
        ATTEMPT,
    )
    SERVING_OVER_BUDGET = (
        "ServingOverBudget",
        "A FineTuneBudget lets the endpoint have no pods at present.",
        READY,
        CONDITION,
    )
    APPROVAL_NEEDED = (
        "ApprovalNeeded",
        "A FineTuneBudget requires that an administrator approves the training.",
        READY,
        CONDITION,
    )
    COST_UNKNOWN = (
        "CostUnknown",
        "A FineTuneBudget applies, but the GPU time or the cost of the training is unknown.",
        READY,
    )
    BUDGET_UNAVAILABLE = (
        "BudgetUnavailable",
        "A FineTuneBudget applies to the job, but it cannot be read, or no usage is recorded.",
        READY,
    )
    PREEMPTED = ("Preempted", "Kueue evicted the train Job.", READY, CONDITION)
    UNSCHEDULABLE = ("Unschedulable", "No node meets the requirements of a pod.", READY)
    SECRET_MISSING = (
        "SecretMissing",
        "The job refers to a Secret, or to a key of a Secret, that does not exist.",
        READY,
    )
    CONFIG_MAP_MISSING = (
        "ConfigMapMissing",
        "The job refers to a ConfigMap, or to a key of a ConfigMap, that does not exist.",
        READY,
    )
    IMAGE_PULL_FAILED = ("ImagePullFailed", "A container image cannot be pulled.", READY)
    VOLUME_PENDING = ("VolumePending", "The volume is not bound, attached or mounted.", READY)
    QUOTA_EXCEEDED = ("QuotaExceeded", "A ResourceQuota of the namespace is exhausted.", READY)
    FAILED_CREATE = (
        "FailedCreate",
        "The API server rejects an object because of a policy, Pod Security, a webhook or a "
        "missing ServiceAccount.",
        READY,
    )
    CREATE_CONTAINER_CONFIG_ERROR = (
        "CreateContainerConfigError",
        "The kubelet cannot configure a container.",
        READY,
    )
    CREATE_CONTAINER_ERROR = (
        "CreateContainerError",
        "The container runtime cannot create a container.",
        READY,
    )
    RUN_CONTAINER_ERROR = ("RunContainerError", "The kubelet cannot start a container.", READY)
    CRASH_LOOP_BACK_OFF = ("CrashLoopBackOff", "A container exits repeatedly.", *FAILURE)
    WAITING_FOR_POD = (
        "WaitingForPod",
        "A pod or Job of an earlier attempt has not terminated yet.",
        READY,
    )
    WAITING_FOR_VOLUME = ("WaitingForVolume", "The volume is terminating or being replaced.", READY)
    WAITING_FOR_CLEANUP = (
        "WaitingForCleanup",
        "Objects of a deleted FineTuneJob with the same name are being garbage-collected.",
        READY,
    )
    RESERVING = ("Reserving", "The GPU time of the training is not reserved yet.", READY)

    # Failed.
    INVALID_SPEC = (
        "InvalidSpec",
        "The job cannot run with its spec, completed with the defaults.",
        *FAILURE,
    )
    NOT_ALLOWED = ("NotAllowed", "The policy of the operator does not allow the spec.", READY)
    PROFILE_NOT_FOUND = (
        "ProfileNotFound",
        "The FineTuneProfile in `spec.profile` does not exist.",
        READY,
    )
    PROFILE_INVALID = (
        "ProfileInvalid",
        "The FineTuneProfile of the job is not valid.",
        READY,
    )
    ADAPTER_NOT_PUBLISHED = (
        "AdapterNotPublished",
        "The FineTuneJob in `spec.training.startFrom.job` does not exist, or has not published the "
        "adapter of the revision where the job can read it.",
        READY,
    )
    TOO_EXPENSIVE = (
        "TooExpensive",
        "Training may cost more than `spec.runPolicy.maxCost` allows.",
        READY,
    )
    PRICE_UNKNOWN = (
        "PriceUnknown",
        "`spec.runPolicy.maxCost` is set, but the job has no profile with a price.",
        READY,
    )
    UNSUPPORTED_VERSION = (
        "UnsupportedVersion",
        "Another version of the operator wrote a status or a frozen configuration that this "
        "version cannot read.",
        READY,
    )
    CONFIGURATION_CHANGED = (
        "ConfigurationChanged",
        "The configuration of the revision, or another object that the operator creates, does not "
        "have the content that the operator wrote. The operator does not use this object.",
        *FAILURE,
    )
    FAILED_TO_START = (
        "FailedToStart",
        "Kueue admitted the train Job but could not start it.",
        *FAILURE,
    )
    ENDPOINT_NOT_FOUND = (
        "EndpointNotFound",
        "The FineTuneEndpoint in `spec.serving.endpointRef` does not exist.",
        READY,
        CONDITION,
    )
    NAME_CONFLICT = (
        "NameConflict",
        "An object with a name that the job needs already exists and belongs to another owner, or "
        "a FineTuneEndpoint cannot give the job a model name: another job had it first, or it ends "
        "in -base.",
        READY,
    )
    DATASET_INVALID = ("DatasetInvalid", "A row or file of a dataset cannot be used.", *FAILURE)
    DATASET_NOT_FOUND = ("DatasetNotFound", "A dataset or its revision does not exist.", *FAILURE)
    MODEL_NOT_FOUND = ("ModelNotFound", "The base model or its revision does not exist.", *FAILURE)
    ACCESS_DENIED = (
        "AccessDenied",
        "The source or target denied access, or the value of a token, key or password is invalid.",
        *FAILURE,
        PUBLICATION,
    )
    SOURCE_NOT_SIGNED = (
        "SourceNotSigned",
        "The policy of the operator requires a signature of a source, which the source does not "
        "have.",
        *FAILURE,
    )
    VOLUME_FULL = ("VolumeFull", "The volume of the revision is too small.", *FAILURE)
    RESUME_REFUSED = (
        "ResumeRefused",
        "Files on the volume do not belong to this job or were modified.",
        *FAILURE,
    )
    CUDA_OUT_OF_MEMORY = (
        "CUDAOutOfMemory",
        "Training exceeds the GPU memory even at micro-batch size 1.",
        *FAILURE,
    )
    DOES_NOT_FIT = (
        "DoesNotFit",
        "According to the estimate, training or serving exceeds the GPU memory, or training "
        "exceeds the memory limit of its pod. The operator did not request a GPU.",
        *FAILURE,
    )
    UNSUPPORTED_GPU = (
        "UnsupportedGPU",
        "The GPU or its driver is too old for the trainer image.",
        *FAILURE,
    )
    LOSS_DIVERGED = ("LossDiverged", "The loss or the gradients are not finite.", *FAILURE)
    NOT_MERGEABLE = (
        "NotMergeable",
        "The base model and the adapter cannot be merged reliably.",
        *FAILURE,
    )
    BUDGET_EXCEEDED = (
        "BudgetExceeded",
        "Training has used all GPU time that `spec.runPolicy.maxGpuSeconds` or "
        "`spec.runPolicy.maxCost` allows.",
        *FAILURE,
    )
    EXCEEDS_BUDGET = (
        "ExceedsBudget",
        "The training needs more than a FineTuneBudget has for a whole period.",
        READY,
    )
    OUT_OF_MEMORY = ("OutOfMemory", "A pod exceeded its memory limit and was killed.", *FAILURE)
    TOO_MANY_RESTARTS = (
        "TooManyRestarts",
        "A stage restarted more often than `spec.runPolicy.maxRestarts` allows.",
        *FAILURE,
    )
    VOLUME_LOST = (
        "VolumeLost",
        "A user or another client deleted the PersistentVolumeClaim of the revision.",
        *(READY, EVENT, ATTEMPT),
    )
    RETRIES_EXHAUSTED = (
        "RetriesExhausted",
        "The pods of a stage failed more often than `spec.runPolicy.backoffLimit` allows.",
        *FAILURE,
    )
    DEADLINE_EXCEEDED = ("DeadlineExceeded", "A stage exceeded its deadline.", *FAILURE)
    RESULT_MISSING = (
        "ResultMissing",
        "A pod exited with code 0 but did not report that the stage completed.",
        *FAILURE,
    )
    INTERNAL_ERROR = ("InternalError", "The trainer failed with an unexpected error.", *FAILURE)
    FAILED = ("Failed", "A stage failed without reporting a reason.", READY, CONDITION)
    EVAL_GATE_FAILED = (
        "EvalGateFailed",
        "On the held-out rows, the tuned model is worse than its base model or worse than the "
        "serving model.",
        READY,
    )
    VERIFICATION_FAILED = (
        "VerificationFailed",
        "The served model differs from the trained model.",
        *FAILURE,
    )
    PUBLISH_FAILED = (
        "PublishFailed",
        "At least one target of `spec.publish` does not hold the model. `status.publish` has the "
        "error of each target.",
        *(EVENT, ATTEMPT, CONDITION),
    )
    PUBLISH_WITHHELD = (
        "PublishWithheld",
        "The evaluation gate, or the outcome of the verification, does not allow the model to be "
        "published.",
        *(EVENT, CONDITION),
    )
    TARGET_CONFLICT = (
        "TargetConflict",
        "The name or tag of a target of `spec.publish` belongs to content that this job did not "
        "publish.",
        PUBLICATION,
    )
    TARGET_REJECTED = (
        "TargetRejected",
        "A target of `spec.publish` rejected the content, or holds other content than was sent.",
        PUBLICATION,
    )
    ROLLOUT_FAILED = (
        "RolloutFailed",
        "The new build failed, and the previous build continues to serve. A build is a revision "
        "with its merge settings and serving mode.",
        READY,
    )
    ENDPOINT_DOWN = (
        "EndpointDown",
        "The endpoint has been down for longer than the progress deadline of its Deployment.",
        READY,
    )
    PROGRESS_DEADLINE_EXCEEDED = (
        "ProgressDeadlineExceeded",
        "The endpoint did not become ready before the progress deadline of its Deployment.",
        *FAILURE,
    )

    # Ends of attempts that the operator retries by itself.
    JOB_DELETED = ("JobDeleted", "Another client deleted the Job of a stage.", EVENT, ATTEMPT)
    JOB_REPLACED = ("JobReplaced", "Another client replaced the Job of a stage.", EVENT, ATTEMPT)
    TRANSIENT = (
        "Transient",
        "The attempt failed because of a temporary problem outside the pod. The stage is retried.",
        ATTEMPT,
        PUBLICATION,
    )
    STOPPED = ("Stopped", "The pod received SIGTERM. Training can resume.", CONDITION, ATTEMPT)

    # Events.
    DATA_READY = ("DataReady", "Data preparation has completed.", EVENT)
    TRAINED = ("Trained", "Training has completed.", EVENT)
    MERGED = ("Merged", "The merge has completed.", EVENT)
    PUBLISHED = (
        "Published",
        "All targets of `spec.publish` hold the model.",
        EVENT,
        CONDITION,
    )
    SUPERSEDED = ("Superseded", "A Job was stopped, because the spec has changed.", EVENT)
    WARNING_RAISED = ("WarningRaised", "A warning was added to `status.warnings`.", EVENT)
    GPU_RELEASE_PLANNED = (
        "GPUReleasePlanned",
        "A pod of a new build waits for a GPU. The previous build will release its GPU at the "
        "time in the message.",
        EVENT,
    )
    RELEASE_DID_NOT_HELP = (
        "ReleaseDidNotHelp",
        "The previous build released its GPU, but the train pod was not scheduled within 5 "
        "minutes. The previous build serves again.",
        EVENT,
    )
    DRIFT_CORRECTED = (
        "DriftCorrected",
        "The operator reverted changes that another client made to an object of the job.",
        EVENT,
    )

    # Other conditions.
    PENDING = (
        "Pending",
        "Condition of a stage: the stage has not started. Condition `Serving`: no model is being "
        "served yet.",
        CONDITION,
    )
    RUNNING = (
        "Running",
        "Condition of a stage: the stage is running. Condition `Suspended`: the job is not "
        "suspended.",
        CONDITION,
    )
    FINISHED = (
        "Finished",
        "Condition `Suspended`: the job is not suspended, and no stage is left to run.",
        CONDITION,
    )
    AVAILABLE = ("Available", "The endpoint answers requests.", CONDITION)
    NOT_AVAILABLE = ("NotAvailable", "The endpoint does not answer requests.", CONDITION)
    GPU_RELEASED = (
        "GPUReleased",
        "The previous build released its GPU, so that a new build can be trained or verified.",
        EVENT,
        CONDITION,
    )
    DISABLED = ("Disabled", "`spec.serving.enabled` is false.", CONDITION)

    # Condition Valid of a FineTuneProfile.
    VALID = ("Valid", "Jobs can use the profile, or the budget applies.", PROFILE, BUDGET)
    INVALID_DEFAULTS = (
        "InvalidDefaults",
        "No job could have the defaults of the profile.",
        PROFILE,
    )
    INVALID_LIMITS = ("InvalidLimits", "A limit of the profile is not valid.", PROFILE)
    TOO_LARGE = (
        "TooLarge",
        "The defaults of the chart and of the profile are too large together.",
        PROFILE,
    )

    # Conditions of a FineTuneBudget.
    USAGE_DISABLED = (
        "UsageDisabled",
        "The operator records no usage, so the jobs of the budget cannot train.",
        BUDGET,
    )
    NO_NAMESPACES = ("NoNamespaces", "The budget selects no namespace.", BUDGET)
    WITHIN_BUDGET = ("WithinBudget", "Less than 80 % of each limit is used or reserved.", BUDGET)
    NEAR_LIMIT = ("NearLimit", "80 % of a limit is used or reserved.", BUDGET)
    EXHAUSTED = ("Exhausted", "A limit is used up in this period.", BUDGET)

    # Conditions of a FineTuneEndpoint, and states of its models.
    PREPARING_BASE = (
        "PreparingBase",
        "The prepare pod of the endpoint downloads the base and prepares it for vLLM.",
        ENDPOINT,
    )
    VERIFYING = (
        "Verifying",
        "The endpoint loads or verifies models. Those that were verified answer.",
        ENDPOINT,
    )
    SIGNING_KEY_MISSING = (
        "SigningKeyMissing",
        "The operator has no key, so it cannot sign the list of model names of the endpoint.",
        READY,
        ENDPOINT,
    )
    WANTED_SET_REFUSED = (
        "WantedSetRefused",
        "The pod of the endpoint rejects the signed list of model names.",
        ENDPOINT,
    )
    ENDPOINT_FULL = (
        "EndpointFull",
        "All places of the endpoint for adapters are taken.",
        READY,
        CONDITION,
        ENDPOINT,
    )

    # The operator's log.
    CRD_MISSING = ("CrdMissing", "The FineTuneJob API is not installed in the cluster.", LOG)
    API_UNAVAILABLE = (
        "ApiUnavailable",
        "A request to the API server failed or timed out. The operator tries again.",
        LOG,
    )
    NOT_FOUND = ("NotFound", "The object that the operator tried to write no longer exists.", LOG)
    NOT_LEADING = (
        "NotLeading",
        "This replica of the operator is not the leader. The replica made no changes.",
        LOG,
    )
    CONFLICT = ("Conflict", "Another client changed an object before the operator wrote it.", LOG)
    ERROR = ("Error", "A request to the API server failed, and no other reason applies.", LOG)
