"""``ftj estimate``: memory, disk and time of a FineTuneJob, before it is applied.

With ``--model`` (a folder or a config.json) nothing is downloaded; otherwise only config.json is
read from the hub. The exit code is 82, as in the cluster, if the job does not fit its GPU.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from finetune_cli import base_config, job_file
from finetune_cli.job_file import SpecFile
from finetune_trainer.data import packing
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.estimate import report, shape, verdict
from finetune_trainer.estimate.budget import Data, EstimateOptions, estimate
from finetune_trainer.estimate.serving import ServingOptions
from finetune_trainer.estimate.suggestions import PRODUCT_LABEL
from finetune_trainer.models import backend_choice
from finetune_trainer.models.backend_choice import TRL, UNSLOTH, Facts
from finetune_trainer.runtime import cards
from finetune_trainer.runtime.signals import StopRequest

CHART_CARD = "NVIDIA-A10G"
"""The node selector of the chart's default placement."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    job_file.add_argument(parser)
    parser.add_argument(
        "--model",
        type=Path,
        metavar="PATH",
        help="folder or config.json of the base model; default: read config.json from its source",
    )
    parser.add_argument(
        "--card",
        metavar="NAME",
        help=f"GPU, as in the node label {PRODUCT_LABEL}; default: the GPU in "
        f"placement.nodeSelector, or {CHART_CARD}",
    )
    parser.add_argument(
        "--rows", type=int, metavar="N", help="number of training rows, to estimate steps and time"
    )
    parser.add_argument(
        "--tokens", type=int, metavar="N", help="number of tokens in all rows, to estimate time"
    )
    parser.add_argument(
        "--longest", type=int, metavar="N", help="number of tokens in the longest row"
    )
    parser.add_argument(
        "--unsloth", action="store_true", help="assume a trainer image that contains Unsloth"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes and seconds")


def run(options: argparse.Namespace, _: StopRequest) -> int:
    """Print the estimate of a FineTuneJob. Raises InvalidSpec, DoesNotFit or a hub error."""
    file = job_file.read(options.file)
    spec = file.resolved.spec
    config = _config(file, options.model)
    found_shape = shape.read(config)
    if found_shape is None:
        raise InvalidSpec(
            f"the estimate does not support the family of model {spec.model.source}. The prepare "
            "stage accepts such models, but does not check their memory"
        )
    name = options.card or (spec.placement.node_selector or {}).get(PRODUCT_LABEL) or CHART_CARD
    card = cards.find(name)
    data = _data(file, rows=options.rows, tokens=options.tokens, longest=options.longest)
    serving = ServingOptions(
        max_model_len=spec.serving.max_model_len, share=spec.serving.gpu_memory_utilization
    )
    estimate_options = EstimateOptions(
        card=card, serving=serving if spec.serving.enabled else None, merges=file.merges
    )
    image = _image(spec.training.advanced.backend, unsloth=options.unsloth)
    facts = Facts(recipe=spec.training, image=image, family=config["model_type"])
    backend = backend_choice.choose(facts)
    recipe = backend_choice.with_backend(spec.training, backend.name)
    found = estimate(found_shape, recipe, data=data, options=estimate_options)
    if options.json:
        print(json.dumps(report.facts(found), indent=1))
    else:
        print(report.table(found, title=f"{file.name}: {spec.model.source.removeprefix('hf://')}"))
        print(f"\nThe backend is {backend.name}: {backend.reason}")
    if card is None:
        known = ", ".join(cards.CARDS)
        print(
            f"\nGPU {name} is not in the GPU table, so its memory is not checked. "
            f"Known GPUs: {known}",
            file=sys.stderr,
        )
    for warning in verdict.warnings(found):
        print(f"\nwarning: {warning}", file=sys.stderr)
    possible = backend_choice.possible(facts)
    refused = verdict.refusal(found, found_shape, recipe, data, serving, possible)
    if refused is not None:
        raise refused
    return 0


def _data(file: SpecFile, *, rows: int | None, tokens: int | None, longest: int | None) -> Data:
    """Return what the options say about the rows; no row is read."""
    recipe = file.resolved.spec.training
    sequences = rows
    packed = {"always": True, "never": False}.get(recipe.packing)
    if packed and tokens is not None:
        sequences = max(1, -(-tokens // recipe.sequence_length))
    steps = recipe.max_steps
    if steps is None and sequences is not None:
        steps = packing.steps_of(
            sequences, batch=recipe.effective_batch_size, epochs=recipe.epochs, max_steps=None
        )
    return Data(longest=longest, packed=packed, sequences=sequences, tokens=tokens, steps=steps)


def _config(file: SpecFile, given: Path | None) -> dict[str, Any]:
    if given is None:
        return base_config.download(file.resolved.spec.model)
    return base_config.read_file(given / base_config.CONFIG if given.is_dir() else given)


def _image(written: str, *, unsloth: bool) -> dict[str, str]:
    """Return the training libraries of the trainer image: TRL, and those installed here.

    A job that sets Unsloth needs an image with Unsloth; the cluster reports an image without it.
    """
    assumed = {TRL: ""} | ({UNSLOTH: ""} if unsloth or written == UNSLOTH else {})
    return assumed | backend_choice.installed()
