"""The errors of one target, which do not stop the other targets."""

from finetune_api.v1alpha1.reasons import Reason


class TargetError(Exception):
    """A target does not hold the model, and a retry with the same request does not help."""

    reason = Reason.TARGET_REJECTED


class TargetRejected(TargetError):
    """The target rejects the content, or holds other content than was sent."""


class TargetConflict(TargetError):
    """A name at the target belongs to other content."""

    reason = Reason.TARGET_CONFLICT
