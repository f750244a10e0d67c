"""``python -m finetune_trainer stage|train|merge``: runs one command and leaves its result.

The result is one JSON object in the termination message; the exit code says whether trying again
can help. Nothing heavy is imported before it is needed: SIGTERM ends the process by itself until
the handler is in place, which is at once, and with a result from then on.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from finetune_api.job import JobConfig
from finetune_api.result import Result
from finetune_trainer import threads
from finetune_trainer.errors import InvalidSpec, Stopped, TrainerError
from finetune_trainer.layout import Layout
from finetune_trainer.progress import Progress, log
from finetune_trainer.signals import StopRequest

TERMINATION_LOG = "/dev/termination-log"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidSpec(f"the trainer was called wrongly: {message}")


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    common = _Parser(add_help=False)
    common.add_argument("--config", type=Path, required=True, help="job.json of the revision")
    common.add_argument("--work", type=Path, required=True, help="the volume's root")
    root = _Parser(prog="finetune_trainer", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True, parser_class=_Parser)
    commands.add_parser("stage", parents=[common], help="fetch, check and tokenise")
    train = commands.add_parser("train", parents=[common], help="train the adapter")
    train.add_argument("--max-gpu-seconds", type=float, help="budget over all attempts")
    merge = commands.add_parser("merge", parents=[common], help="make the 16-bit model")
    merge.add_argument("--build", required=True, help="name of the build, as in merged-<build>")
    merge.add_argument("--dtype", choices=("auto", "float16", "bfloat16"), default="auto")
    merge.add_argument("--base", choices=("dequantized", "original"), default="dequantized")
    return root


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code."""
    stop = StopRequest()
    stop.install()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    threads.configure(os.environ)
    command = next((each for each in arguments if each in ("stage", "train", "merge")), "stage")
    progress = Progress(command)
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
        result = _failure(progress, stopped.reason, str(stopped), outcome="stopped")
    except Exception as error:
        code = 1
        traceback.print_exception(error)
        text = " ".join(str(error).split())[:500]
        result = _failure(
            progress,
            "InternalError",
            f"{type(error).__name__}: {text}; the pod's log has the traceback",
        )
    stop.ignore()
    log(f"{command} {result.outcome}: {result.reason}: {result.message}")
    for warning in result.warnings:
        log(f"warning: {warning}")
    _leave(result)
    return code


def _run(options: argparse.Namespace, progress: Progress, stop: StopRequest) -> Result:
    job = read_job(options.config)
    layout = Layout(work=options.work)
    progress.serve()
    if options.command == "stage":
        from finetune_trainer import stage

        return stage.run(job, layout, progress)
    os.environ.update(OFFLINE)
    if options.command == "train":
        from finetune_trainer import train

        return train.run(job, layout, progress, stop, max_gpu_seconds=options.max_gpu_seconds)
    from finetune_trainer import merge

    return merge.run(
        job, layout, progress, build=options.build, dtype=options.dtype, base=options.base
    )


def read_job(path: Path) -> JobConfig:
    """Read job.json, or say which field is wrong."""
    try:
        return JobConfig.model_validate_json(path.read_text())
    except OSError as error:
        raise InvalidSpec(f"the job's configuration cannot be read: {error}") from error
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc'])) or 'the job'}: {each['msg']}"
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


def _leave(result: Result) -> None:
    """Write the termination message; outside a pod there may be nowhere to put it."""
    path = Path(os.environ.get("FINETUNE_TERMINATION_LOG", TERMINATION_LOG))
    try:
        path.write_text(result.to_message())
    except OSError as error:
        log(f"the result could not be written to {path} ({error}): {result.to_message()}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
