"""``ftj run``: runs all stages of a FineTuneJob on this machine, without a cluster.

The stages run one after the other on a folder instead of a volume, and publish the same files as
in a cluster. Ctrl-C saves a checkpoint; the same command resumes from it.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Annotated, Any, cast

import typer

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import Result
from finetune_api.contracts.stage_request import (
    MergeStageRequest,
    PrepareStageRequest,
    ServingSettings,
    TrainStageRequest,
)
from finetune_api.durations import duration
from finetune_api.safety.redaction import Canvas
from finetune_api.v1alpha1.data.rows import Rows
from finetune_api.v1alpha1.sources import CONFIGMAP_SOURCE_PREFIX, Kind, prefix_of
from finetune_api.v1alpha1.training.start_from import START_FROM
from finetune_cli import options
from finetune_cli.offline import base_config, job_file
from finetune_cli.offline.job_file import SpecFile
from finetune_cli.options import Format, Manifest, ManifestOption, Output
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.compatibility import backend_choice
from finetune_trainer.compatibility.backend_choice import UNSLOTH, Facts, with_backend
from finetune_trainer.devices.cards import Card, find
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.runtime import daemon_thread
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.volume import lock
from finetune_trainer.volume.files import write_json
from finetune_trainer.volume_layout import Layout

if TYPE_CHECKING:
    # Needs prometheus_client, which is not installed if only the help is read.
    from finetune_trainer.runtime.progress import Progress

JOB_FILE = "job.json"
REFRESH_SECONDS = 0.25
BARS = {"prepare": "preparing", "train": "training", "merge": "merging"}


def run(
    context: typer.Context,
    work: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="folder for all results of one revision; use a different folder for each revision",
        ),
    ],
    manifest: Manifest = None,
    file: ManifestOption = None,
    output: Output = Format.TEXT,
) -> int:
    """Run the stages of a FineTuneJob. Raises the errors of the stages."""
    stop: StopRequest = context.obj
    _handle_ctrl_c(stop)
    read = job_file.read(options.file(manifest, file))
    _require_source(read)
    job, layout = read.job(), Layout(work=work)
    _claim(layout.work, job)
    from finetune_trainer.runtime.progress import Progress

    if token := os.environ.get("HF_TOKEN"):
        for kind in ("model", START_FROM, *job.rows_of_training, "evaluation.dataset"):
            os.environ.setdefault(f"{prefix_of(kind)}_HF_TOKEN", token)
    for kind, rows in job.rows_of_training.items():
        _write_configmap(read, layout.work, kind, rows)
    if job.evaluation_dataset is not None:
        _write_configmap(read, layout.work, "evaluation.dataset", job.evaluation_dataset)
    from finetune_trainer.training import backends

    # Unsloth patches libraries that the prepare stage imports: it must be imported first.
    backends.load(with_backend(job.training, _backend(job, layout)))
    for stage in ("prepare", "train", "merge"):
        if stage == "merge" and not read.merges:
            break
        progress = Progress(stage)
        with _bar(progress), lock.held(layout, stage):
            result = _run_stage(stage, read, job, layout, progress, stop)
        log(f"{stage}: {result.message}")
        for warning in result.warnings:
            log(f"warning: {warning}")
    _log_results(read, layout)
    if output is Format.JSON:
        print(json.dumps(_results(read, layout), indent=2))
    return 0


def _require_source(file: SpecFile) -> None:
    """Raise InvalidSpec for an adapter whose place only an operator knows."""
    start = file.resolved.spec.training.start_from
    if start is not None and start.job is not None:
        raise InvalidSpec(
            "training.startFrom.job: only an operator can find the adapter of FineTuneJob "
            f"{start.job.name}: set training.startFrom.source to its reference in status.publish"
        )


def _run_stage(
    name: str,
    file: SpecFile,
    job: JobConfig,
    layout: Layout,
    progress: "Progress",
    stop: StopRequest,
) -> Result:
    spec = file.resolved.spec
    paths: dict[str, Any] = {"config": str(layout.work / JOB_FILE), "work": str(layout.work)}
    if name == "prepare":
        from finetune_trainer.preparation import prepare

        preparing = PrepareStageRequest(
            **paths, serving=ServingSettings.of(spec), merges=file.merges
        )
        return prepare.run(job, layout, progress, preparing, card=_card())
    if name == "train":
        from finetune_trainer.training import gpu_usage, train

        training = TrainStageRequest(**paths, max_gpu_seconds=spec.run_policy.max_gpu_seconds)
        begun = gpu_usage.process_age()
        return train.run(job, layout, progress, stop, training, gpu_held_since=begun)
    from finetune_trainer.merging import merge

    merging = MergeStageRequest(
        **paths,
        build=file.resolved.build,
        dtype=spec.merge.dtype,
        base=spec.merge.base,
        largest_activation=_largest_activation(layout),
    )
    return merge.run(job, layout, progress, merging)


def _largest_activation(layout: Layout) -> int | None:
    """Return the largest activation of the tuned model; None if no reference was recorded."""
    if not layout.reference.is_dir():
        return None
    largest: int | None = manifest.read(layout.reference).facts["largestActivation"]
    return largest


def _backend(job: JobConfig, layout: Layout) -> str:
    """Return the backend that ``prepare`` selected, or will select for this machine."""
    if published.prepared(layout, job, hashes=False) is not None:
        return backend_choice.load(layout.dataset).name
    image = backend_choice.installed()
    facts = Facts(recipe=job.training, image=image)
    early = backend_choice.choose(facts)
    if early.name != UNSLOTH:
        return early.name
    # Only the base can still be an obstacle to Unsloth.
    return backend_choice.choose(facts.of_base(base_config.download(job.model))).name


def _handle_ctrl_c(stop: StopRequest) -> None:
    """Handle the first Ctrl-C as SIGTERM; the second ends the process at once."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        log("saving a checkpoint, then stopping (to stop without a checkpoint, press Ctrl-C again)")
        stop.request()

    signal.signal(signal.SIGINT, interrupted)


def _claim(work: Path, job: JobConfig) -> None:
    """Bind the folder to the job's revision, as a volume is. Raises InvalidSpec."""
    path = work / JOB_FILE
    if path.exists():
        try:
            before: JobConfig | None = JobConfig.model_validate_json(path.read_text())
        except ValueError:
            before = None
        if before is None or before.digest != job.digest:
            reason = (
                "was written by another version of ftj"
                if before is None
                else f"belongs to revision {before.revision}, but the FineTuneJob in the file has "
                f"revision {job.revision} (a change that affects the weights starts a new revision)"
            )
            raise InvalidSpec(f"{work} {reason}: set --work to another folder, or delete {work}")
    work.mkdir(parents=True, exist_ok=True)
    write_json(path, job.model_dump(mode="json"))


def _write_configmap(file: SpecFile, work: Path, kind: Kind, rows: Rows) -> None:
    """Write the rows of a ConfigMap to a folder, as a pod would have them mounted."""
    variable = f"FINETUNE_{prefix_of(kind)}_DIR"
    if not rows.source.startswith(CONFIGMAP_SOURCE_PREFIX) or variable in os.environ:
        return
    name, key = rows.source.removeprefix(CONFIGMAP_SOURCE_PREFIX).split("/", 1)
    try:
        text = file.configmaps[name][key]
    except KeyError:
        raise InvalidSpec(
            f"{kind} {rows.source} is not in the YAML file that contains the FineTuneJob: add "
            f"the ConfigMap to that file, or set the environment variable {variable} to a folder "
            "with one file per key of the ConfigMap"
        ) from None
    folder = work / "configmap" / kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / key).write_text(text, encoding="utf-8")
    os.environ[variable] = str(folder)


def _card() -> Card | None:
    """Return the GPU of this machine, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name().replace(" ", "-")
    listed = find(name)
    memory = torch.cuda.get_device_properties(0).total_memory
    return Card(
        name=name,
        memory=memory,
        tflops=listed.tflops if listed else None,
        capability=torch.cuda.get_device_capability(),
    )


@contextmanager
def _bar(progress: "Progress") -> Iterator[None]:
    """Show a progress bar below the log if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[figures]}"),
        TimeElapsedColumn(),
        console=Console(file=cast("IO[str]", Canvas(sys.stderr))),
        expand=True,
    )
    task = bar.add_task(BARS[progress.stage], total=1.0, figures="")

    def follow() -> None:
        bar.update(task, completed=progress.get("progress_ratio") or 0, figures=figures(progress))

    with bar, daemon_thread.repeated(follow, seconds=REFRESH_SECONDS):
        yield


def figures(progress: "Progress") -> str:
    """Return the text next to the bar: step, loss, speed and time left."""

    def formatted(name: str, pattern: str) -> Any:
        value = progress.get(name)
        return None if value is None else pattern.format(value)

    step, steps = formatted("global_step", "{:.0f}"), formatted("max_steps", "{:.0f}")
    left = progress.get("eta_seconds")
    parts = [
        f"step {step}/{steps}" if step and steps else None,
        formatted("train_loss", "loss {:.4f}"),
        formatted("tokens_per_second", "{:,.0f} tok/s"),
        f"{duration(left)} left" if left is not None else None,
    ]
    return "  ".join(part for part in parts if part)


def _results(file: SpecFile, layout: Layout) -> dict[str, str | None]:
    """Return the folders of adapter and merged model."""
    merged = layout.merged(file.resolved.build)
    return {
        "name": file.name,
        "revision": file.resolved.revision,
        "adapter": str(layout.adapter),
        "merged": str(merged) if merged.is_dir() else None,
    }


def _log_results(file: SpecFile, layout: Layout) -> None:
    log(f"adapter, loss curve and model card: {layout.adapter}")
    merged = layout.merged(file.resolved.build)
    if merged.is_dir():
        log(f"merged model: {merged}")
        log(f"serve it: vllm serve {merged} --served-model-name {file.name}")
