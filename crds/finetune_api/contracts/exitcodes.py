"""Exit codes of the trainer and the verifier.

The Job's podFailurePolicy acts on the code: terminal codes are never retried. The reason in the
termination message is for the user. Codes from 64 to 78 follow BSD's sysexits if it defines a
suitable one.
"""

from enum import Enum, IntEnum

from finetune_api.v1alpha1.reasons import Reason


class Retry(Enum):
    """What happens after a pod exits with a code. The value is the sentence in the docs."""

    NONE = "No retry is needed."
    LIMITED = "Retried up to `spec.runPolicy.backoffLimit` times."
    RESUMED = (
        "Resumed from the last checkpoint. The restart counts against "
        "`spec.runPolicy.backoffLimit`, except after a disruption by Kubernetes, such as the drain "
        "of a node."
    )
    NEVER = "Never retried. The stage fails immediately. Change the spec to start a new attempt."


class ExitCode(IntEnum):
    """The outcome of a process, with its meaning, retry policy and reasons."""

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
        "Temporary failure outside the pod, such as an interrupted download.",
        Retry.LIMITED,
        Reason.TRANSIENT,
    )
    ACCESS_DENIED = (
        77,
        "The source denied access, the value of a credential cannot be used, or the source lacks a "
        "required signature.",
        Retry.NEVER,
        Reason.ACCESS_DENIED,
        Reason.SOURCE_NOT_SIGNED,
    )
    RESUME_REFUSED = (
        78,
        "The job configuration or files on the volume do not belong to this job or were modified.",
        Retry.NEVER,
        Reason.RESUME_REFUSED,
        Reason.CONFIGURATION_CHANGED,
    )
    CUDA_OUT_OF_MEMORY = (
        80,
        "Training exceeds the GPU memory even at micro-batch size 1.",
        Retry.NEVER,
        Reason.CUDA_OUT_OF_MEMORY,
    )
    LOSS_DIVERGED = (
        81,
        "The loss or the gradients are not finite.",
        Retry.NEVER,
        Reason.LOSS_DIVERGED,
    )
    DOES_NOT_FIT = (
        82,
        "According to the estimate, training or serving exceeds the GPU memory, or training "
        "exceeds the memory limit of its pod.",
        Retry.NEVER,
        Reason.DOES_NOT_FIT,
    )
    VERIFICATION_FAILED = (
        83,
        "The served model differs from the trained model.",
        Retry.NEVER,
        Reason.VERIFICATION_FAILED,
    )
    NOT_MERGEABLE = (
        84,
        "The base model and the adapter cannot be merged reliably.",
        Retry.NEVER,
        Reason.NOT_MERGEABLE,
    )
    BUDGET_EXCEEDED = (
        85,
        "Training has used all GPU time that spec.runPolicy.maxGpuSeconds or "
        "spec.runPolicy.maxCost allows.",
        Retry.NEVER,
        Reason.BUDGET_EXCEEDED,
    )
    UNSUPPORTED_GPU = (
        86,
        "The GPU or its driver is too old for the trainer image.",
        Retry.NEVER,
        Reason.UNSUPPORTED_GPU,
    )
    PUBLISH_FAILED = (
        87,
        "At least one target of `spec.publish` does not accept the model.",
        Retry.NEVER,
        Reason.PUBLISH_FAILED,
    )
    STOPPED = (143, "The process received SIGTERM.", Retry.RESUMED, Reason.STOPPED)


FINAL = tuple(sorted(code.value for code in ExitCode if code.retry is Retry.NEVER))
"""Terminal codes in ascending order: the Job fails at once."""
