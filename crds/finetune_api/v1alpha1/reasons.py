"""Every reason that a condition, an event, an attempt or a log line of a FineTuneJob may have.

Reasons are part of the API: alerts, GitOps health checks and scripts compare them. Code uses
the members and never writes a reason as a literal. docs/reference/reasons.md is generated from
``doc`` and ``uses``. The trainer uses the reasons of failed attempts, too.
"""

from enum import StrEnum


class Use(StrEnum):
    """Where a reason appears. A new reason of the Ready condition is also recorded as an event."""

    READY = "Ready"
    CONDITION = "another condition"
    EVENT = "event"
    ATTEMPT = "attempt in status.revisions"
    LOG = "log of the operator"


READY, CONDITION, EVENT, ATTEMPT, LOG = Use


class Reason(StrEnum):
    """A reason; ``doc`` is its meaning in one line, ``uses`` are the places where it appears."""

    _value_: str
    doc: str
    uses: tuple[Use, ...]

    def __new__(cls, value: str, doc: str = "", *uses: Use) -> "Reason":
        """Return a member that equals ``value``."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        member.uses = uses
        return member

    # In progress, or done.
    PREPARING = (
        "Preparing",
        "The prepare pod downloads the model and the dataset, and validates and tokenizes the "
        "dataset.",
        READY,
    )
    TRAINING = ("Training", "The adapter is being trained.", READY)
    MERGING = ("Merging", "The base model and the adapter are being merged on a CPU.", READY)
    STARTING = (
        "Starting",
        "Ready: the endpoint is loading the model. Condition of a stage: the Job of the stage "
        "was created.",
        READY,
        CONDITION,
    )
    RESTARTING = ("Restarting", "The endpoint is down and its pods are restarting.", READY)
    SERVING = ("Serving", "The endpoint answers requests.", READY)
    SCALED_TO_ZERO = ("ScaledToZero", "spec.serving.replicas is 0.", READY, CONDITION)
    COMPLETED = ("Completed", "All work has completed.", READY, CONDITION, ATTEMPT)

    # Waiting.
    SUSPENDED_BY_USER = ("SuspendedByUser", "spec.suspend is true.", READY, CONDITION)
    QUEUED = ("Queued", "The queue has not admitted the Job yet.", READY, CONDITION)
    PREEMPTED = ("Preempted", "The queue evicted the Job.", READY, CONDITION)
    UNSCHEDULABLE = ("Unschedulable", "No node fits the pod.", READY)
    SECRET_MISSING = ("SecretMissing", "A Secret, or its key, does not exist.", READY)
    CONFIG_MAP_MISSING = ("ConfigMapMissing", "A ConfigMap, or its key, does not exist.", READY)
    IMAGE_PULL_FAILED = ("ImagePullFailed", "A container image cannot be pulled.", READY)
    VOLUME_PENDING = ("VolumePending", "The volume is not bound, attached or mounted.", READY)
    QUOTA_EXCEEDED = ("QuotaExceeded", "A ResourceQuota of the namespace is exhausted.", READY)
    FAILED_CREATE = (
        "FailedCreate",
        "The API server rejects an object because of a policy, Pod Security, a webhook or a "
        "service account.",
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
    RUN_CONTAINER_ERROR = (
        "RunContainerError",
        "The container runtime cannot start a container.",
        READY,
    )
    CRASH_LOOP_BACK_OFF = ("CrashLoopBackOff", "A container exits repeatedly.", READY, ATTEMPT)
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

    # Failed.
    INVALID_SPEC = (
        "InvalidSpec",
        "The spec, completed with defaults, cannot be run.",
        READY,
        ATTEMPT,
    )
    UNSUPPORTED_VERSION = (
        "UnsupportedVersion",
        "Another version of the operator wrote a status that this version cannot read.",
        READY,
    )
    FAILED_TO_START = (
        "FailedToStart",
        "Kueue admitted the Job but could not start it.",
        READY,
        ATTEMPT,
    )
    NAME_CONFLICT = (
        "NameConflict",
        "An object with a name that the job needs belongs to another owner.",
        READY,
    )
    DATASET_INVALID = (
        "DatasetInvalid",
        "A row or file of a dataset cannot be used.",
        READY,
        ATTEMPT,
    )
    DATASET_NOT_FOUND = (
        "DatasetNotFound",
        "A dataset or its revision does not exist.",
        READY,
        ATTEMPT,
    )
    MODEL_NOT_FOUND = (
        "ModelNotFound",
        "The base model or its revision does not exist.",
        READY,
        ATTEMPT,
    )
    ACCESS_DENIED = (
        "AccessDenied",
        "The source denied access: the model or dataset is gated or private, or the token lacks "
        "a permission.",
        READY,
        ATTEMPT,
    )
    VOLUME_FULL = ("VolumeFull", "The volume is too small.", READY, ATTEMPT)
    RESUME_REFUSED = (
        "ResumeRefused",
        "Files on the volume do not belong to this job or were modified.",
        READY,
        ATTEMPT,
    )
    CUDA_OUT_OF_MEMORY = (
        "CUDAOutOfMemory",
        "Training exceeds the GPU memory even at micro-batch size 1.",
        READY,
        ATTEMPT,
    )
    DOES_NOT_FIT = (
        "DoesNotFit",
        "According to the estimate, training or serving exceeds the GPU memory. No GPU was "
        "requested.",
        READY,
        ATTEMPT,
    )
    LOSS_DIVERGED = ("LossDiverged", "The loss or the gradients are not finite.", READY, ATTEMPT)
    NOT_MERGEABLE = (
        "NotMergeable",
        "The base model and the adapter cannot be merged reliably.",
        READY,
        ATTEMPT,
    )
    BUDGET_EXCEEDED = (
        "BudgetExceeded",
        "Training has used all GPU time that spec.runPolicy.maxGpuSeconds allows.",
        READY,
        ATTEMPT,
    )
    OUT_OF_MEMORY = (
        "OutOfMemory",
        "A pod exceeded its memory limit and was killed.",
        READY,
        ATTEMPT,
    )
    TOO_MANY_RESTARTS = (
        "TooManyRestarts",
        "A stage restarted more often than spec.runPolicy.maxRestarts allows.",
        READY,
        ATTEMPT,
    )
    VOLUME_LOST = (
        "VolumeLost",
        "The PersistentVolumeClaim was deleted externally.",
        READY,
        EVENT,
        ATTEMPT,
    )
    RETRIES_EXHAUSTED = (
        "RetriesExhausted",
        "The pods of a stage failed more often than spec.runPolicy.backoffLimit allows.",
        READY,
        ATTEMPT,
    )
    RESULT_MISSING = (
        "ResultMissing",
        "A pod exited with code 0 but did not report that the stage completed.",
        READY,
        ATTEMPT,
    )
    INTERNAL_ERROR = ("InternalError", "Unexpected error in the trainer.", READY, ATTEMPT)
    FAILED = ("Failed", "A stage failed, and no reason was reported.", READY, CONDITION)
    EVAL_GATE_FAILED = (
        "EvalGateFailed",
        "The tuned model is worse than its base model on the held-out rows.",
        READY,
    )
    VERIFICATION_FAILED = (
        "VerificationFailed",
        "The served model differs from the trained model.",
        READY,
        ATTEMPT,
    )
    ROLLOUT_FAILED = (
        "RolloutFailed",
        "The new build failed; the previous build continues to serve.",
        READY,
    )
    ENDPOINT_DOWN = (
        "EndpointDown",
        "The endpoint has been down for longer than the progress deadline.",
        READY,
    )
    PROGRESS_DEADLINE_EXCEEDED = (
        "ProgressDeadlineExceeded",
        "The endpoint did not become ready in time.",
        READY,
        ATTEMPT,
    )

    # Ends of attempts that the operator retries by itself.
    JOB_DELETED = ("JobDeleted", "The Job of a stage was deleted externally.", EVENT, ATTEMPT)
    TRANSIENT = (
        "Transient",
        "Temporary failure outside the pod. The attempt is retried.",
        ATTEMPT,
    )
    STOPPED = (
        "Stopped",
        "The pod received SIGTERM; training resumes from its checkpoint.",
        CONDITION,
        ATTEMPT,
    )

    # Events.
    DATA_READY = ("DataReady", "Data preparation has completed.", EVENT)
    TRAINED = ("Trained", "Training has completed.", EVENT)
    MERGED = ("Merged", "The merge has completed.", EVENT)
    DRIFT_CORRECTED = (
        "DriftCorrected",
        "The operator reverted changes that another client made to an object of the job.",
        EVENT,
    )

    # Other conditions.
    PENDING = ("Pending", "The stage has not started, or no build has been served.", CONDITION)
    RUNNING = (
        "Running",
        "The stage is running. Condition Suspended: the job is not suspended.",
        CONDITION,
    )
    FINISHED = ("Finished", "No stage is left to run.", CONDITION)
    AVAILABLE = ("Available", "The serving build answers requests.", CONDITION)
    NOT_AVAILABLE = ("NotAvailable", "The serving build does not answer requests.", CONDITION)
    GPU_RELEASED = (
        "GPUReleased",
        "The serving build released its GPU to the new revision.",
        CONDITION,
    )
    DISABLED = ("Disabled", "spec.serving.enabled is false.", CONDITION)

    # The operator's log.
    CRD_MISSING = ("CrdMissing", "The FineTuneJob API is not installed in the cluster.", LOG)
    API_UNAVAILABLE = (
        "ApiUnavailable",
        "A request to the API server failed or timed out. It is retried.",
        LOG,
    )
    NOT_FOUND = ("NotFound", "The object that the operator tried to write no longer exists.", LOG)
    NOT_LEADING = ("NotLeading", "This replica is not the leader. It made no changes.", LOG)
    CONFLICT = ("Conflict", "Another client changed the object first.", LOG)
    ERROR = ("Error", "A request to the API server failed with another error.", LOG)
