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


def is_full(status: int, text: str) -> bool:
    """Report whether the answer of a server means that its space or a quota is used up.

    Servers have no common status for it: 507 is the standard, 413 and 412 are quotas of some
    registries, and 500 is a full disk.
    """
    return status == 507 or (status >= 400 and any(each in text.lower() for each in _FULL))


_FULL = (
    "no space left",
    "insufficient storage",
    "quota",
    "storage limit",
    "storage resource",
    "storage full",
    "storagefull",
)
