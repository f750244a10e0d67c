"""``ftj import-axolotl``: prints a FineTuneJob to stdout; notes and an estimate to stderr."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from finetune_api.contracts.exitcodes import ExitCode
from finetune_cli.axolotl.convert import convert
from finetune_cli.axolotl.notes import Severity, count
from finetune_cli.offline import estimate, job_file
from finetune_cli.options import Format, Output
from finetune_trainer.errors import InvalidSpec, TrainerError


def run(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Axolotl configuration (YAML); - for stdin")
    ],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="name of the FineTuneJob; default: derived from output_dir or base_model",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="exit with code 64 if a setting that can affect the model is dropped",
        ),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="folder or config.json of the base model, for the estimate; default: read "
            "config.json from the hub",
        ),
    ] = None,
    output: Output = Format.TEXT,
) -> int:
    """Print the manifest. Raises InvalidSpec if a FineTuneJob cannot run the configuration."""
    documents = job_file.load(file)
    if len(documents) != 1:
        raise InvalidSpec(
            f"{file} is not an Axolotl configuration: the file must contain one YAML object"
        )
    manifest, notes = convert(documents[0], name=name)
    if output is Format.JSON:
        print(json.dumps(manifest, indent=2))
    else:
        print(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=100), end="")
    sys.stdout.flush()
    for note in notes:
        print(note, file=sys.stderr)
    counts = ", ".join(f"{count(notes, severity)} {severity}" for severity in Severity)
    print(f"\n{counts}", file=sys.stderr)
    _print_estimate(manifest, model)
    if strict and (dropped := count(notes, Severity.DROPPED)):
        print(f"\n--strict: {dropped} settings are dropped", file=sys.stderr)
        return int(ExitCode.INVALID_SPEC)
    return 0


def _print_estimate(manifest: dict[str, Any], model: Path | None) -> None:
    """Print the estimate of the job, or the reason why there is none."""
    try:
        estimated = estimate.of(job_file.of([manifest], at="the manifest"), model=model)
    except TrainerError as error:
        print(f"\nno estimate: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(
            f"\nno estimate, because the package {error.name} is missing: install the extra cli, "
            "or set --model",
            file=sys.stderr,
        )
    else:
        print(f"\n{estimated.text}", file=sys.stderr)
        for warning in estimated.warnings:
            print(f"\nwarning: {warning}", file=sys.stderr)
        if estimated.refusal is not None:
            print(f"\n{estimated.refusal.reason}: {estimated.refusal}", file=sys.stderr)
