"""What can end a command other than success, as one tree.

    TrainerError                    an outcome with an exit code; its text is for the user
    ├── InvalidSpec          64     the job asks for what cannot be
    ├── DatasetInvalid       65     rows or files of the dataset are broken
    ├── NotFound             66
    │   ├── ModelNotFound
    │   └── DatasetNotFound
    ├── VolumeFull           73
    ├── Transient            75     try again: the hub is away, a download broke off
    ├── AccessDenied         77     gated, private or forbidden
    ├── ResumeRefused        78     what lies on the volume does not belong to this job
    ├── CudaOutOfMemory      80     even at micro-batch 1
    ├── LossDiverged         81     loss or gradients not finite
    ├── DoesNotFit           82     training or serving is too large for the card
    ├── NotMergeable         84
    └── BudgetExceeded       85     GPU seconds spent
    Stopped                 143     SIGTERM; a BaseException, so that no handler swallows it

Whatever else escapes is an InternalError, exit code 1. Messages name the field or file, the value
and the way out; they end up in the job's status.
"""

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.v1alpha1.reasons import Reason


class TrainerError(Exception):
    """An outcome that the operator acts on."""

    code: ExitCode = ExitCode.INTERNAL_ERROR
    reason = Reason.INTERNAL_ERROR


class InvalidSpec(TrainerError):
    """The job's configuration asks for something impossible."""

    code = ExitCode.INVALID_SPEC
    reason = Reason.INVALID_SPEC


class DatasetInvalid(TrainerError):
    """The dataset cannot be trained on as it is."""

    code = ExitCode.DATASET_INVALID
    reason = Reason.DATASET_INVALID


class NotFound(TrainerError):
    """A repository, revision or file does not exist."""

    code = ExitCode.NOT_FOUND


class ModelNotFound(NotFound):
    """The base model does not exist."""

    reason = Reason.MODEL_NOT_FOUND


class DatasetNotFound(NotFound):
    """The dataset does not exist."""

    reason = Reason.DATASET_NOT_FOUND


class VolumeFull(TrainerError):
    """The volume is too small for what has to be written."""

    code = ExitCode.VOLUME_FULL
    reason = Reason.VOLUME_FULL


class Transient(TrainerError):
    """Something outside failed; the same command may succeed later."""

    code = ExitCode.TRANSIENT
    reason = Reason.TRANSIENT


class AccessDenied(TrainerError):
    """The hub refuses access."""

    code = ExitCode.ACCESS_DENIED
    reason = Reason.ACCESS_DENIED


class ResumeRefused(TrainerError):
    """What the volume holds is not what this command may go on from."""

    code = ExitCode.RESUME_REFUSED
    reason = Reason.RESUME_REFUSED


class CudaOutOfMemory(TrainerError):
    """The smallest step does not fit the card."""

    code = ExitCode.CUDA_OUT_OF_MEMORY
    reason = Reason.CUDA_OUT_OF_MEMORY


class LossDiverged(TrainerError):
    """The loss or the gradients are no longer finite."""

    code = ExitCode.LOSS_DIVERGED
    reason = Reason.LOSS_DIVERGED


class DoesNotFit(TrainerError):
    """By its estimate, training or serving is too large for the card."""

    code = ExitCode.DOES_NOT_FIT
    reason = Reason.DOES_NOT_FIT


class NotMergeable(TrainerError):
    """Base and adapter do not give a merged model that can be trusted."""

    code = ExitCode.NOT_MERGEABLE
    reason = Reason.NOT_MERGEABLE


class BudgetExceeded(TrainerError):
    """The GPU seconds that the run policy allows are spent."""

    code = ExitCode.BUDGET_EXCEEDED
    reason = Reason.BUDGET_EXCEEDED


class Stopped(BaseException):
    """SIGTERM arrived where nothing has to be saved."""

    code = ExitCode.STOPPED
    reason = Reason.STOPPED

    def __init__(self, message: str = "stopped before anything had to be saved") -> None:
        """``message``: for the user."""
        super().__init__(message)
