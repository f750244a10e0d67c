"""The stages of a job, in their order, and everything that depends on which one it is.

Conditions, Jobs, network policies, scraping and columns read this table: another stage is another
entry in it. Only ``revisions.ledger`` asks for the attempts at a stage by its name.
"""

from dataclasses import dataclass
from typing import Literal

from finetune_api.outcome import merges, shares
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.spec import FineTuneJobSpec

Stage = Literal["prepare", "train", "merge", "publish", "serve"]
"""Name of a stage: in the ledger, in labels, and in the names of Jobs."""


@dataclass(frozen=True, kw_only=True)
class StageDefinition:
    """A stage that runs in pods of its own."""

    name: Stage
    in_progress: Reason
    """Reason of Ready while the stage runs as expected."""

    network: str
    """Last part of the name of the NetworkPolicy that selects its pods; stages can share one."""

    per_build: bool = False
    """Whether each build of a revision has attempts of its own, or the revision has them."""

    gpu: bool = False


@dataclass(frozen=True, kw_only=True)
class JobStage(StageDefinition):
    """A stage whose attempts are Jobs of the trainer image, and which ends."""

    condition: str
    """Type of its condition, which becomes True when it completes."""

    completed: Reason
    """Reason of the event when it completes."""

    doing: str
    """Message of Ready, or of its own condition, while the stage runs as expected."""

    reads_sources: bool = False
    """Whether its pod reads models and data from outside: it has egress, the credentials of the
    sources and a deadline, because a hostile chat template or server may never end."""

    publishes: bool = False
    """Whether its pod writes to targets outside: it has egress and credentials for these. The stage
    runs beside the endpoint, and its Job ends even if the spec describes another revision by then.
    """

    doubles_memory: bool = False
    """Whether an attempt that ran out of memory is repeated once with twice its memory limit."""


PREPARE = JobStage(
    name="prepare",
    condition="DataReady",
    in_progress=Reason.PREPARING,
    completed=Reason.DATA_READY,
    doing="Downloading and validating the model and the dataset; tokenizing the dataset.",
    network="prepare",
    reads_sources=True,
)
TRAIN = JobStage(
    name="train",
    condition="Trained",
    in_progress=Reason.TRAINING,
    completed=Reason.TRAINED,
    doing="Training the adapter.",
    network="work",
    gpu=True,
)
MERGE = JobStage(
    name="merge",
    condition="Merged",
    in_progress=Reason.MERGING,
    completed=Reason.MERGED,
    doing="Merging base model and adapter.",
    network="work",
    per_build=True,
    doubles_memory=True,
)
SERVE = StageDefinition(
    name="serve", in_progress=Reason.STARTING, network="serve", per_build=True, gpu=True
)

PUBLISH = JobStage(
    name="publish",
    condition="Published",
    in_progress=Reason.PUBLISHING,
    completed=Reason.PUBLISHED,
    doing="The publish pod uploads the model and reads it back.",
    network="publish",
    per_build=True,
    publishes=True,
)

PIPELINE: tuple[JobStage, ...] = (PREPARE, TRAIN, MERGE)
"""The stages that produce the model, in order."""

STAGES: tuple[StageDefinition, ...] = (*PIPELINE, SERVE, PUBLISH)

BESIDE: tuple[JobStage, ...] = (PUBLISH,)
"""The stages that use a complete model, beside the endpoint."""

JOB_STAGES: tuple[JobStage, ...] = (*PIPELINE, *BESIDE)

_JOB_STAGES = {stage.name: stage for stage in JOB_STAGES}


def job_stage(name: Stage) -> JobStage:
    """Return the definition of a stage that runs as a Job. Raises KeyError for ``serve``."""
    return _JOB_STAGES[name]


def is_job_stage(name: str | None) -> bool:
    """Report whether a name, such as a label that anyone may write, is that of a Job stage."""
    return name in _JOB_STAGES


def publishes(name: str | None) -> bool:
    """Report whether the stage of a name writes to targets outside."""
    return name in _JOB_STAGES and _JOB_STAGES[name].publishes


def serves(name: str | None) -> bool:
    """Report whether the stage of a name is the one that serves the model."""
    return name == SERVE.name


def needs_gpu(name: str | None) -> bool:
    """Report whether the stage of a name has a GPU."""
    return any(stage.name == name and stage.gpu for stage in STAGES)


def desired(spec: FineTuneJobSpec) -> tuple[JobStage, ...]:
    """Return the stages that produce the model that a spec asks for, in order."""
    if merges(spec):
        return PIPELINE
    return tuple(stage for stage in PIPELINE if not stage.per_build)


def beside(spec: FineTuneJobSpec) -> tuple[JobStage, ...]:
    """Return the stages beside the endpoint that a spec asks for."""
    return BESIDE if spec.publish or spec.tracking is not None or shares(spec) else ()


def earlier(stage: JobStage) -> tuple[JobStage, ...]:
    """Return the stages of the pipeline before a stage."""
    return PIPELINE[: PIPELINE.index(stage)]


def precedes_training(stage: StageDefinition) -> bool:
    """Report whether a stage comes before the one of the pipeline that needs a GPU."""
    return STAGES.index(stage) < STAGES.index(TRAIN)
