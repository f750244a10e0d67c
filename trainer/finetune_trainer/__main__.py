"""Runs one stage of a FineTuneJob: ``python -m finetune_trainer REQUEST``.

REQUEST is a JSON object (``finetune_api.contracts.stage_request``), which the operator writes. The
stage writes its result, another JSON object, to the termination message; the exit code says whether
a retry can help. The commands for users are those of ``ftj`` (finetune_cli).

The SIGTERM handler is installed before any heavy import, so that a pod that is deleted while it
starts ends with a result, too.
"""

import hashlib
import os
import re
import sys
import traceback
from pathlib import Path

from pydantic import ValidationError

from finetune_api.contracts import loss_history, termination
from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import Result, StageArtifacts
from finetune_api.contracts.stage_request import (
    CONTRACT_VERSION,
    BaseStageRequest,
    PrepareStageRequest,
    PublishStageRequest,
    StageRequest,
    TrainStageRequest,
    parse,
)
from finetune_api.safety import redaction
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.artifacts import TrainArtifacts
from finetune_trainer.devices import capabilities
from finetune_trainer.errors import ConfigurationChanged, InvalidSpec, Stopped, TrainerError
from finetune_trainer.runtime import environment
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.sources import egress, trust
from finetune_trainer.volume import lock
from finetune_trainer.volume_layout import Layout

STAGES = ("prepare", "train", "merge", "publish", "base")
_REMEDY = (
    "The operator that started the stage and this image have different versions: run the operator "
    "of the release of this image or a newer one, or set the chart value trainer.image to the "
    "image of the operator's release, and spec.rerun to a new value"
)
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def main(arguments: list[str]) -> int:
    """Run the stage of a request, the only argument, and return the exit code."""
    # Before any heavy import: loggers of libraries keep the stream that they find.
    redaction.install()
    progress = Progress(_stage(arguments))
    stop = StopRequest(lambda: _end(_stopped(progress, Stopped())))
    stop.install()
    environment.configure()
    try:
        result = _run(_request(arguments), progress, stop)
        code = 0
    except TrainerError as error:
        code = int(error.code)
        result = _failure(progress, error.reason, str(error), artifacts=error.artifacts)
        if error.__cause__ is not None:
            traceback.print_exception(error)
    except Stopped as stopped:
        code = int(stopped.code)
        result = _stopped(progress, stopped)
    except Exception as error:
        code = 1
        traceback.print_exception(error)
        text = redaction.one_line(error, 500)
        result = _failure(
            progress,
            Reason.INTERNAL_ERROR,
            f"{type(error).__name__}: {text}; see the pod log for the traceback",
        )
    stop.ignore()
    _end(result)
    return code


def _stage(arguments: list[str]) -> str:
    """Return the stage in the arguments, valid or not, whose result is written."""
    stages = "|".join(STAGES)
    # The first argument of version 1 of the contract was the stage.
    match = re.search(rf'^({stages})\b|"stage" *: *"({stages})"', " ".join(arguments))
    return STAGES[0] if match is None else match[1] or match[2]


def _request(arguments: list[str]) -> StageRequest:
    try:
        (argument,) = arguments
    except ValueError:
        raise InvalidSpec(
            "the trainer takes one argument, a stage request in JSON of version "
            f"{CONTRACT_VERSION}, instead of {len(arguments)}. {_REMEDY}"
        ) from None
    try:
        return parse(argument)
    except ValidationError as error:
        raise InvalidSpec(
            f"the stage request is invalid: {_problems(error, root='request')}. {_REMEDY}"
        ) from None


def _run(request: StageRequest, progress: Progress, stop: StopRequest) -> Result:
    if isinstance(request, BaseStageRequest):
        return _make_base(request, progress)
    job = read_job(Path(request.config), request.config_digest)
    layout = Layout(work=Path(request.work))
    progress.serve()
    if isinstance(request, PublishStageRequest):
        _connect(request)
        # It writes nothing to the volume, so it needs no lock, and other stages need not wait.
        from finetune_trainer.publishing import publish

        return publish.run(job, layout, progress, stop, request)
    with lock.held(layout, request.stage):
        if isinstance(request, PrepareStageRequest):
            _connect(request)
            capabilities.require_versions(request.driver, request.compute_capability)
            from finetune_trainer.preparation import prepare

            return prepare.run(job, layout, progress, request)
        os.environ.update(OFFLINE)
        if isinstance(request, TrainStageRequest):
            from finetune_trainer.training import train

            return train.run(job, layout, progress, stop, request)
        from finetune_trainer.merging import merge

        return merge.run(job, layout, progress, request)


def _make_base(request: BaseStageRequest, progress: Progress) -> Result:
    """Make the base of a shared endpoint, which belongs to no job."""
    layout = Layout(work=Path(request.work))
    progress.serve()
    with lock.held(layout, request.stage):
        _connect(request)
        from finetune_trainer.endpoint_base import make

        return make.run(request, layout, progress)


def _connect(request: PrepareStageRequest | PublishStageRequest | BaseStageRequest) -> None:
    """Restrict the connections of this process, and trust the certificates of the chart."""
    if request.destinations is not None:
        egress.Guard(request.destinations, domains=egress.domains()).install()
    if request.ca_certificates:
        trust.add(request.ca_certificates, field="the chart value caCertificates")


def read_job(path: Path, digest: str | None = None) -> JobConfig:
    """Return the job configuration.

    digest: the SHA-256 that its file must have; None accepts any file. Raises ConfigurationChanged
    if the file has another one, and InvalidSpec with the fields that are wrong.
    """
    try:
        content = path.read_bytes()
        actual = hashlib.sha256(content).hexdigest()
        if digest not in (None, actual):
            raise ConfigurationChanged(
                f"{path.name} was changed: its SHA-256 is {actual} instead of {digest}. "
                "Delete the ConfigMap of the revision; the operator creates it again within five "
                "minutes and retries the stage."
            )
        return JobConfig.model_validate_json(content)
    except OSError as error:
        raise InvalidSpec(f"the job configuration cannot be read: {error}") from error
    except ValidationError as error:
        raise InvalidSpec(_problems(error, root="job")) from None


def _problems(error: ValidationError, *, root: str) -> str:
    """Return the first three problems of a document as a sentence. root: its name."""
    problems = [
        f"{'.'.join(map(str, problem['loc'])) or root}: {problem['msg']}"
        for problem in error.errors(include_url=False)
    ]
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def _failure(
    progress: Progress,
    reason: str,
    message: str,
    *,
    outcome: str = "failed",
    artifacts: StageArtifacts | None = None,
) -> Result:
    step, steps = progress.get("global_step"), progress.get("max_steps")
    return Result(
        stage=progress.stage,
        outcome=outcome,
        reason=reason,
        message=message,
        global_step=None if step is None else int(step),
        max_steps=None if steps is None else int(steps),
        loss=progress.get("train_loss"),
        eval_loss=progress.get("eval_loss"),
        gpu_seconds=progress.get("gpu_seconds"),
        artifacts=artifacts or _history(progress),
    )


def _history(progress: Progress) -> TrainArtifacts | None:
    """Return the loss history of a training that has not completed, None without one."""
    points = loss_history.recorded(progress.history)
    return None if points is None else TrainArtifacts(loss_history=points)


def _stopped(progress: Progress, stopped: Stopped) -> Result:
    return _failure(
        progress,
        stopped.reason,
        str(stopped),
        outcome="stopped",
        artifacts=stopped.artifacts,
    )


def _end(result: Result) -> None:
    """Log the result and write the termination message."""
    log(f"{result.stage} {result.outcome}: {result.reason}: {result.message}")
    for warning in result.warnings:
        log(f"warning: {warning}")
    termination.write(result, log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
