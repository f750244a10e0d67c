"""The errors that end a command, as one tree with exit codes.

    TrainerError                    an outcome that the operator acts on
    ├── InvalidSpec          64     the job configuration cannot be carried out
    ├── DatasetInvalid       65     rows or files of a dataset are invalid
    ├── NotFound             66     a repository, revision or file does not exist
    │   ├── ModelNotFound
    │   └── DatasetNotFound
    ├── VolumeFull           73     the volume is too small
    ├── Transient            75     a retry may succeed: hub unreachable, download interrupted
    ├── AccessDenied         77     gated, private or forbidden source
    │   ├── EgressDenied            the chart does not allow a connection
    │   └── SourceNotSigned         the policy requires a signature that the source lacks
    ├── ResumeRefused        78     the volume's content belongs to another job
    │   └── ConfigurationChanged    the job configuration is not the one that the operator wrote
    ├── CudaOutOfMemory      80     out of GPU memory, even at micro-batch 1
    ├── LossDiverged         81     loss or gradients are not finite
    ├── DoesNotFit           82     training or serving is estimated too large for the GPU
    ├── NotMergeable         84     base and adapter give no usable merged model
    ├── BudgetExceeded       85     the GPU time of runPolicy is used up
    ├── UnsupportedGpu       86     this image cannot use the GPU or its driver
    └── PublishFailed        87     at least one target does not accept the model
    Stopped                 143     SIGTERM; a BaseException, so that no handler swallows it

Any other exception is an InternalError with exit code 1. A message names the field or file, the
value and the remediation; it appears in a condition of the FineTuneJob.
"""

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.result import StageArtifacts
from finetune_api.v1alpha1.reasons import Reason


class TrainerError(Exception):
    """An outcome that the operator acts on."""

    code: ExitCode = ExitCode.INTERNAL_ERROR
    reason = Reason.INTERNAL_ERROR
    artifacts: StageArtifacts | None = None
    """What the stage reports although it failed."""


class InvalidSpec(TrainerError):
    """The job configuration cannot be carried out."""

    code = ExitCode.INVALID_SPEC
    reason = Reason.INVALID_SPEC


class DatasetInvalid(TrainerError):
    """Rows or files of a dataset are invalid."""

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
    """The volume is too small for the data to be written."""

    code = ExitCode.VOLUME_FULL
    reason = Reason.VOLUME_FULL


class Transient(TrainerError):
    """An external system failed; the same command may succeed later."""

    code = ExitCode.TRANSIENT
    reason = Reason.TRANSIENT


class AccessDenied(TrainerError):
    """A source refuses access."""

    code = ExitCode.ACCESS_DENIED
    reason = Reason.ACCESS_DENIED


class EgressDenied(AccessDenied):
    """The egress values of the chart do not allow a connection."""


class SourceNotSigned(AccessDenied):
    """The policy of the chart requires a signature, which a source does not have."""

    reason = Reason.SOURCE_NOT_SIGNED


class ResumeRefused(TrainerError):
    """The command must not resume from the content of the volume."""

    code = ExitCode.RESUME_REFUSED
    reason = Reason.RESUME_REFUSED


class ConfigurationChanged(ResumeRefused):
    """The job configuration is not the one that the operator wrote."""

    reason = Reason.CONFIGURATION_CHANGED


class CudaOutOfMemory(TrainerError):
    """The smallest possible step does not fit the GPU."""

    code = ExitCode.CUDA_OUT_OF_MEMORY
    reason = Reason.CUDA_OUT_OF_MEMORY


class LossDiverged(TrainerError):
    """The loss or the gradients are not finite any more."""

    code = ExitCode.LOSS_DIVERGED
    reason = Reason.LOSS_DIVERGED


class DoesNotFit(TrainerError):
    """Training or serving is estimated too large for the GPU."""

    code = ExitCode.DOES_NOT_FIT
    reason = Reason.DOES_NOT_FIT


class UnsupportedGpu(TrainerError):
    """The GPU or its driver is too old for this image."""

    code = ExitCode.UNSUPPORTED_GPU
    reason = Reason.UNSUPPORTED_GPU


class NotMergeable(TrainerError):
    """Base and adapter give no merged model that can be trusted."""

    code = ExitCode.NOT_MERGEABLE
    reason = Reason.NOT_MERGEABLE


class BudgetExceeded(TrainerError):
    """The GPU seconds that the run policy allows are used up."""

    code = ExitCode.BUDGET_EXCEEDED
    reason = Reason.BUDGET_EXCEEDED


class PublishFailed(TrainerError):
    """At least one target does not accept the model, and a retry cannot help."""

    code = ExitCode.PUBLISH_FAILED
    reason = Reason.PUBLISH_FAILED


class Stopped(BaseException):
    """SIGTERM arrived while there was nothing to save."""

    code = ExitCode.STOPPED
    reason = Reason.STOPPED
    artifacts: StageArtifacts | None = None
    """What the stage reports although it was stopped."""

    def __init__(self, message: str = "stopped by SIGTERM; there was nothing to save") -> None:
        """``message`` is shown to the user."""
        super().__init__(message)
