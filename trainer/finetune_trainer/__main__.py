"""The command line: ``python -m finetune_trainer COMMAND``.

``prepare``, ``train`` and ``merge`` run one stage of a job. They write their result, one JSON
object, to the termination message; the exit code says whether a retry can help. The commands for
users are those of ``ftj`` (finetune_cli).

The SIGTERM handler is installed before any heavy import, so that a pod that is deleted while it
starts ends with a result, too.
"""

import argparse
import hashlib
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from finetune_api.contracts import redaction, termination
from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import Result
from finetune_trainer.checkpointing import published
from finetune_trainer.errors import ConfigurationChanged, InvalidSpec, Stopped, TrainerError
from finetune_trainer.preparation import options as prepare_options
from finetune_trainer.runtime import capabilities, environment, lock
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.sources import egress, trust
from finetune_trainer.volume_layout import Layout

DESCRIPTION = (
    "Run one stage of a FineTuneJob: prepare, train or merge. The operator runs this command."
)
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidSpec(f"invalid arguments of the trainer: {message}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    common = _Parser(add_help=False)
    common.add_argument(
        "--config", type=Path, required=True, help="path of the revision's job.json"
    )
    common.add_argument(
        "--config-digest",
        help="expected SHA-256 of job.json, in hex. The command fails if the digest differs. "
        "Without this option, the digest is not checked",
    )
    common.add_argument("--work", type=Path, required=True, help="root folder of the volume")
    root = _Parser(prog="finetune_trainer", description=DESCRIPTION)
    commands = root.add_subparsers(dest="command", required=True, parser_class=_Parser)
    prepare = commands.add_parser(
        "prepare",
        parents=[common],
        help="download and check the base model and the dataset, and tokenize the rows",
    )
    prepare_options.add(prepare)
    train = commands.add_parser("train", parents=[common], help="train the adapter")
    published.add_options(train, "base", "dataset")
    train.add_argument(
        "--max-gpu-seconds",
        type=float,
        help="limit on the sum of the GPU seconds of all attempts",
    )
    merge = commands.add_parser(
        "merge", parents=[common], help="merge the adapter into a 16-bit model"
    )
    published.add_options(merge, "base", "adapter")
    merge.add_argument(
        "--build", required=True, help="name of the build; the model is written to merged-<build>"
    )
    merge.add_argument(
        "--dtype",
        choices=("auto", "float16", "bfloat16"),
        default="auto",
        help="value of merge.dtype: number format of the merged model",
    )
    merge.add_argument(
        "--largest-activation",
        type=int,
        help="largest absolute value of an activation of the tuned model; with --dtype auto, a "
        "large value selects bfloat16",
    )
    merge.add_argument(
        "--base",
        choices=("dequantized", "original"),
        default="dequantized",
        help="value of merge.base: weights to which the adapter is added",
    )
    return root


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    # Before any heavy import: loggers of libraries keep the stream that they find.
    redaction.install()
    command = next((each for each in arguments if each in ("prepare", "train", "merge")), "prepare")
    progress = Progress(command)
    stop = StopRequest(lambda: _end(_stopped(progress, Stopped())))
    stop.install()
    environment.configure()
    try:
        result = _run(parser().parse_args(arguments), progress, stop)
        code = 0
    except TrainerError as error:
        code = int(error.code)
        result = _failure(progress, error.reason, str(error))
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
            "InternalError",
            f"{type(error).__name__}: {text}; see the pod log for the traceback",
        )
    stop.ignore()
    _end(result)
    return code


def _run(options: argparse.Namespace, progress: Progress, stop: StopRequest) -> Result:
    job = read_job(options.config, options.config_digest)
    layout = Layout(work=options.work)
    progress.serve()
    with lock.held(layout, options.command):
        if options.command == "prepare":
            if options.destinations is not None:
                egress.Guard(options.destinations, domains=egress.domains()).install()
            if options.ca_certificates:
                trust.add(options.ca_certificates, field="the chart value caCertificates")
            capabilities.require_versions(options.driver, options.compute_capability)
            from finetune_trainer.preparation import prepare

            return prepare.run(
                job,
                layout,
                progress,
                options=prepare_options.estimate(options),
                untrusted=options.untrusted_volume,
            )
        os.environ.update(OFFLINE)
        if options.command == "train":
            from finetune_trainer.training import train

            return train.run(
                job,
                layout,
                progress,
                stop,
                max_gpu_seconds=options.max_gpu_seconds,
                ledger=published.from_options(options),
            )
        from finetune_trainer.merging import merge

        return merge.run(
            job,
            layout,
            progress,
            build=options.build,
            dtype=options.dtype,
            base=options.base,
            largest_activation=options.largest_activation,
            ledger=published.from_options(options),
        )


def read_job(path: Path, digest: str | None = None) -> JobConfig:
    """Return the job configuration.

    digest: the SHA-256 that its file must have; None accepts any file. Raises ConfigurationChanged
    if the file has another one, and InvalidSpec with the fields that are wrong.
    """
    try:
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if digest not in (None, found):
            raise ConfigurationChanged(
                f"{path.name} was changed: its SHA-256 is {found} instead of {digest}. "
                "Delete the ConfigMap of the revision; the operator creates it again within five "
                "minutes and retries the stage."
            )
        return JobConfig.model_validate_json(content)
    except OSError as error:
        raise InvalidSpec(f"the job configuration cannot be read: {error}") from error
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc'])) or 'job'}: {each['msg']}"
            for each in error.errors(include_url=False)
        ]
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InvalidSpec("; ".join(problems[:3]) + more) from None


def _failure(progress: Progress, reason: str, message: str, *, outcome: str = "failed") -> Result:
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
    )


def _stopped(progress: Progress, stopped: Stopped) -> Result:
    return _failure(progress, stopped.reason, str(stopped), outcome="stopped")


def _end(result: Result) -> None:
    """Log the result and write the termination message."""
    log(f"{result.stage} {result.outcome}: {result.reason}: {result.message}")
    for warning in result.warnings:
        log(f"warning: {warning}")
    termination.write(result, log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
