"""Exit codes of the trainer, and the reasons that go with them.

The Job's podFailurePolicy acts on the code (a ``final`` one is never retried); people read the
reason. Codes from 64 to 78 follow BSD's sysexits where it has a fitting one.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a trainer process ended."""

    COMPLETED = 0
    INTERNAL_ERROR = 1
    INVALID_SPEC = 64
    DATASET_INVALID = 65
    NOT_FOUND = 66
    VOLUME_FULL = 73
    TRANSIENT = 75
    ACCESS_DENIED = 77
    RESUME_REFUSED = 78
    CUDA_OUT_OF_MEMORY = 80
    LOSS_DIVERGED = 81
    DOES_NOT_FIT = 82
    VERIFICATION_FAILED = 83
    NOT_MERGEABLE = 84
    BUDGET_EXCEEDED = 85
    STOPPED = 143


FINAL = tuple(
    sorted(
        code.value
        for code in ExitCode
        if code
        not in (ExitCode.COMPLETED, ExitCode.INTERNAL_ERROR, ExitCode.TRANSIENT, ExitCode.STOPPED)
    )
)
"""Codes that no retry can mend, ascending: the Job fails at once."""
