"""``python -m finetune_trainer prepare|train|merge``: runs one command and leaves its result.

``estimate``, ``import-axolotl`` and ``run`` are for people: they print, and leave no result. The
result is one JSON object in the termination message; the exit code says whether trying again
can help. Nothing heavy is imported before it is needed: SIGTERM ends the process by itself until
the handler is in place, which is at once, and with a result from then on.
"""

import argparse
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import Result
from finetune_trainer.errors import InvalidSpec, Stopped, TrainerError
from finetune_trainer.estimate.budget import EstimateOptions
from finetune_trainer.estimate.serving import ServingOptions
from finetune_trainer.runtime import cards, lock, threads
from finetune_trainer.runtime.progress import Progress, log
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.volume_layout import Layout

TERMINATION_LOG = "/dev/termination-log"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}

TOOLS = {
    "estimate": ("finetune_trainer.cli.estimate", "what a manifest will take"),
    "import-axolotl": ("finetune_trainer.cli.import_axolotl", "an Axolotl YAML as a manifest"),
    "run": ("finetune_trainer.cli.local_run", "prepare, train and merge on this machine"),
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
    prepare = commands.add_parser("prepare", parents=[common], help="fetch, check and tokenize")
    prepare.add_argument("--card", help="nvidia.com/gpu.product of the nodes that train and serve")
    prepare.add_argument("--serving-share", type=float, help="share of the card that vLLM takes")
    prepare.add_argument("--serving-length", type=int, help="tokens of the longest request")
    prepare.add_argument("--no-merge", action="store_true", help="nothing will be merged")
    train = commands.add_parser("train", parents=[common], help="train the adapter")
    train.add_argument("--max-gpu-seconds", type=float, help="budget over all attempts")
    merge = commands.add_parser("merge", parents=[common], help="make the 16-bit model")
    merge.add_argument("--build", required=True, help="name of the build, as in merged-<build>")
    merge.add_argument("--dtype", choices=("auto", "float16", "bfloat16"), default="auto")
    merge.add_argument("--base", choices=("dequantized", "original"), default="dequantized")
    for name, (module, text) in TOOLS.items():
        tool = commands.add_parser(name, help=text)
        importlib.import_module(module).add_arguments(tool)
    return root


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code."""
    command = next((each for each in arguments if each in ("prepare", "train", "merge")), "prepare")
    progress = Progress(command)
    tool = bool(arguments) and arguments[0] in TOOLS
    stop = StopRequest() if tool else StopRequest(lambda: _end(_stopped(progress, Stopped())))
    stop.install()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    threads.configure(os.environ)
    if tool:
        return _tool(arguments, stop)
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
        text = " ".join(str(error).split())[:500]
        result = _failure(
            progress,
            "InternalError",
            f"{type(error).__name__}: {text}; the pod's log has the traceback",
        )
    stop.ignore()
    _end(result)
    return code


def _tool(arguments: list[str], stop: StopRequest) -> int:
    """Run a command for people: what it has to say goes to the terminal."""
    module = importlib.import_module(TOOLS[arguments[0]][0])
    try:
        code: int = module.run(parser().parse_args(arguments), stop)
    except (TrainerError, Stopped) as ended:
        print(f"{ended.reason}: {ended}", file=sys.stderr)
        return int(ended.code)
    return code


def _run(options: argparse.Namespace, progress: Progress, stop: StopRequest) -> Result:
    job = read_job(options.config)
    layout = Layout(work=options.work)
    progress.serve()
    with lock.held(layout, options.command):
        if options.command == "prepare":
            from finetune_trainer.preparation import prepare

            return prepare.run(job, layout, progress, options=_estimate_options(options))
        os.environ.update(OFFLINE)
        if options.command == "train":
            from finetune_trainer.training import train

            return train.run(job, layout, progress, stop, max_gpu_seconds=options.max_gpu_seconds)
        from finetune_trainer.merging import merge

        return merge.run(
            job, layout, progress, build=options.build, dtype=options.dtype, base=options.base
        )


def _estimate_options(options: argparse.Namespace) -> EstimateOptions:
    card = cards.find(options.card) if options.card else None
    if options.card and card is None:
        log(f"{options.card} is no card of the table: nothing is refused for its memory")
    share, length = options.serving_share, options.serving_length
    return EstimateOptions(
        card=card,
        serving=None if share is None else ServingOptions(max_model_len=length, share=share),
        merges=not options.no_merge,
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


def _stopped(progress: Progress, stopped: Stopped) -> Result:
    return _failure(progress, stopped.reason, str(stopped), outcome="stopped")


def _end(result: Result) -> None:
    """Write log and termination message; outside a pod there may be nowhere to put the latter."""
    log(f"{result.stage} {result.outcome}: {result.reason}: {result.message}")
    for warning in result.warnings:
        log(f"warning: {warning}")
    path = Path(os.environ.get("FINETUNE_TERMINATION_LOG", TERMINATION_LOG))
    try:
        path.write_text(result.to_message())
    except OSError as error:
        log(f"the result could not be written to {path} ({error}): {result.to_message()}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
