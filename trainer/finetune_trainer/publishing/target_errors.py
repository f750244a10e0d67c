"""The errors of one target, which do not stop the other targets."""

import re

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

    Servers have no common status for it: 507 is the standard, 413, 412 and 403 are quotas of some
    registries, and 500 is a full disk. A rate limit may name a quota, too, and passes.
    """
    if status in (401, 429) or status < 400:
        return False
    return status == 507 or _FULL.search(text.lower()) is not None


_FULL = re.compile(
    r"no space left|insufficient storage|storage (limit|resource|full)|storagefull"
    r"|quota[\w ]* (exceeded|exhausted|reached|used up)|quotaexceeded|exceed[\w ]* quota"
)
