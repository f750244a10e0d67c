"""Exit codes of the trainer and the verifier.

The Job's podFailurePolicy acts on the code: a terminal one is never retried. The reason in the
termination message is for the user. Codes from 64 to 78 follow BSD's sysexits if it defines a
suitable one.
"""

from enum import Enum, IntEnum

from finetune_api.v1alpha1.reasons import Reason


class Retry(Enum):
    """What happens after a pod has exited with a code; the value is the sentence in the docs."""

    NONE = "Nothing to retry."
    LIMITED = "Retried up to `spec.runPolicy.backoffLimit` times."
    RESUMED = (
        "Resumed from the last checkpoint. Counts against `spec.runPolicy.backoffLimit` unless "
        "Kubernetes disrupted the pod, for example to drain its node."
    )
    NEVER = "Never retried: the stage fails at once. A change of the spec starts a new attempt."


class ExitCode(IntEnum):
    """The outcome of a process, with its meaning, its retry policy and the reasons it goes with."""

    _value_: int
    meaning: str
    retry: Retry
    reasons: tuple[Reason, ...]

    def __new__(
        cls, value: int, meaning: str = "", retry: Retry = Retry.NEVER, *reasons: Reason
    ) -> "ExitCode":
        """Return a member that equals ``value``."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.retry = retry
        member.reasons = reasons
        return member

    COMPLETED = (0, "The stage completed.", Retry.NONE, Reason.COMPLETED)
    INTERNAL_ERROR = (1, "Unexpected error in the trainer.", Retry.LIMITED, Reason.INTERNAL_ERROR)
    INVALID_SPEC = (64, "The spec cannot be run.", Retry.NEVER, Reason.INVALID_SPEC)
    DATASET_INVALID = (
        65,
        "Rows or files of a dataset are invalid.",
        Retry.NEVER,
        Reason.DATASET_INVALID,
    )
    NOT_FOUND = (
        66,
        "The model, the dataset or its revision does not exist.",
        Retry.NEVER,
        Reason.MODEL_NOT_FOUND,
        Reason.DATASET_NOT_FOUND,
    )
    VOLUME_FULL = (73, "The volume is too small.", Retry.NEVER, Reason.VOLUME_FULL)
    TRANSIENT = (
        75,
        "A temporary failure outside the pod, such as an interrupted download.",
        Retry.LIMITED,
        Reason.TRANSIENT,
    )
    ACCESS_DENIED = (77, "The source denies access.", Retry.NEVER, Reason.ACCESS_DENIED)
    RESUME_REFUSED = (
        78,
        "Files on the volume do not belong to this job or were modified.",
        Retry.NEVER,
        Reason.RESUME_REFUSED,
    )
    CUDA_OUT_OF_MEMORY = (
        80,
        "Training exceeds the GPU memory even at micro-batch size 1.",
        Retry.NEVER,
        Reason.CUDA_OUT_OF_MEMORY,
    )
    LOSS_DIVERGED = (81, "Loss or gradients are not finite.", Retry.NEVER, Reason.LOSS_DIVERGED)
    DOES_NOT_FIT = (
        82,
        "By the estimate, training or serving exceeds the GPU memory.",
        Retry.NEVER,
        Reason.DOES_NOT_FIT,
    )
    VERIFICATION_FAILED = (
        83,
        "The served model differs from the trained one.",
        Retry.NEVER,
        Reason.VERIFICATION_FAILED,
    )
    NOT_MERGEABLE = (
        84,
        "Base model and adapter cannot be merged reliably.",
        Retry.NEVER,
        Reason.NOT_MERGEABLE,
    )
    BUDGET_EXCEEDED = (
        85,
        "The GPU-seconds of spec.runPolicy.maxGpuSeconds are spent.",
        Retry.NEVER,
        Reason.BUDGET_EXCEEDED,
    )
    STOPPED = (143, "The process received SIGTERM.", Retry.RESUMED, Reason.STOPPED)


FINAL = tuple(sorted(code.value for code in ExitCode if code.retry is Retry.NEVER))
"""Terminal codes in ascending order: the Job fails at once."""
