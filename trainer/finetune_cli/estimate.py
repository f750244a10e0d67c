"""``ftj estimate``: memory, disk and time of a FineTuneJob, before it is applied.

With ``--model`` (a folder or a config.json) nothing is downloaded; otherwise only config.json is
read from the hub. The exit code is that of the prepare stage if the cluster would reject the job:
82 if the job does not fit its GPU, 73 if it does not fit ``storage.size``, 64 if its GPU or its
base does not support the recipe, 86 if the trainer image does not support the GPU. It is 64 for an
unknown GPU, which cannot be checked.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api import quantity
from finetune_api.contracts.stage_request import ServingSettings
from finetune_api.v1alpha1.profile import Price
from finetune_api.v1alpha1.resources import Backend
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.training import Training
from finetune_cli import base_config, job_file
from finetune_cli import price as prices
from finetune_cli.job_file import SpecFile
from finetune_trainer.compatibility import backend_choice, recipe_support
from finetune_trainer.compatibility.backend_choice import TRL, UNSLOTH, Facts
from finetune_trainer.data import packing
from finetune_trainer.devices import cards
from finetune_trainer.errors import InvalidSpec, TrainerError
from finetune_trainer.estimate import report, shape, verdict
from finetune_trainer.estimate.budget import Data, Estimate, EstimateOptions, estimate
from finetune_trainer.estimate.shape import Shape
from finetune_trainer.estimate.suggestions import PRODUCT_LABEL
from finetune_trainer.models.base_config import text_config
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
        help=f"GPU model, as in the node label {PRODUCT_LABEL}; default: the GPU model in "
        f"placement.nodeSelector, or {CHART_CARD} if placement.nodeSelector contains no GPU model",
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
    prices.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes and seconds")


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """The estimate of a job, warnings, and the reason to reject the job, or None."""

    title: str
    card: str
    backend: Backend
    estimate: Estimate
    warnings: tuple[str, ...]
    refusal: TrainerError | None

    @property
    def text(self) -> str:
        """The estimate as a table, and the backend."""
        table = report.table(self.estimate, title=self.title)
        return f"{table}\n\nThe backend is {self.backend.name}: {self.backend.reason}"


def run(options: argparse.Namespace, _: StopRequest) -> int:
    """Print the estimate. Raises InvalidSpec, DoesNotFit, VolumeFull or a hub error."""
    file = job_file.read(options.file)
    data = _data(file, rows=options.rows, tokens=options.tokens, longest=options.longest)
    price = prices.of(options, file.resolved.spec)
    found = of(file, model=options.model, card=options.card, data=data, unsloth=options.unsloth)
    print(json.dumps(report.facts(found.estimate), indent=1) if options.json else found.text)
    if price is not None and not options.json:
        print(f"\n{_cost(found.estimate, price, file)}")
    for warning in found.warnings:
        print(f"\nwarning: {warning}", file=sys.stderr)
    if found.refusal is not None:
        raise found.refusal
    if cards.find(found.card) is None:
        close = " or ".join(cards.similar(found.card))
        known = f"Did you mean {close}?" if close else f"Known GPUs: {', '.join(cards.CARDS)}"
        raise InvalidSpec(
            f"GPU {found.card} is not in the GPU table, so its memory is not checked. {known}"
        )
    return 0


def of(
    file: SpecFile,
    *,
    model: Path | None,
    card: str | None = None,
    data: Data | None = None,
    unsloth: bool = False,
) -> Estimated:
    """Return the estimate of a job. Raises InvalidSpec or a hub error.

    model: folder or config.json of the base; None to read it from its source. card: by default that
    of the job or of the chart. data: by default without numbers of rows and tokens. unsloth:
    whether the trainer image contains Unsloth.
    """
    spec = file.resolved.spec
    config = _config(file, model)
    found_shape = shape.read(text_config(config))
    if found_shape is None:
        raise InvalidSpec(
            f"the estimate does not support the family of model {spec.model.source}. The prepare "
            "stage accepts this model, but does not estimate how much memory the job needs"
        )
    name = card or (spec.placement.node_selector or {}).get(PRODUCT_LABEL) or CHART_CARD
    data = data or _data(file, rows=None, tokens=None, longest=None)
    serving = ServingSettings.of(spec)
    estimate_options = EstimateOptions(card=cards.find(name), serving=serving, merges=file.merges)
    image = _image(spec.training.advanced.backend, unsloth=unsloth)
    facts = Facts(recipe=spec.training, image=image).of_base(config)
    backend = backend_choice.choose(facts)
    recipe = backend_choice.with_backend(spec.training, backend.name)
    found = estimate(found_shape, recipe, data=data, options=estimate_options)
    possible = backend_choice.possible(facts)
    return Estimated(
        title=f"{file.name}: {spec.model.source.removeprefix('hf://')}",
        card=name,
        backend=backend,
        estimate=found,
        warnings=(*verdict.warnings(found), *_warnings(spec, found_shape)),
        refusal=_unsupported(recipe, estimate_options, config)
        or verdict.refusal(found, found_shape, recipe, data, serving, possible)
        or verdict.host_refusal(found, _limit(spec))
        or verdict.volume_refusal(found, int(quantity.amount(spec.storage.size))),
    )


def _cost(found: Estimate, price: Price, file: SpecFile) -> str:
    """Return the expected cost of training as a sentence."""
    if found.seconds is None:
        return (
            "The cost of training is unknown without its duration. Set --rows and --tokens, and a "
            "known --card."
        )
    limit = file.resolved.spec.run_policy.max_gpu_seconds
    return prices.line(price, found.seconds, limit)


def _unsupported(
    recipe: Training, options: EstimateOptions, config: dict[str, Any]
) -> TrainerError | None:
    """Return the error of a recipe that the GPU or the base does not support."""
    try:
        recipe_support.check_cards(recipe, options)
        recipe_support.check_base(recipe, options, config)
    except TrainerError as error:
        return error
    return None


def _limit(spec: FineTuneJobSpec) -> int | None:
    """Return the memory limit of the train container in bytes."""
    written = (spec.resources.train.limits or {}).get("memory")
    return None if written is None else int(quantity.amount(written))


def _warnings(spec: FineTuneJobSpec, base: Shape) -> Iterator[str]:
    """Yield warnings about a job that the prepare stage would reject, whatever its card."""
    if spec.training.lora.modules_to_save and base.tied:
        yield (
            "the base model has tied embeddings (tie_word_embeddings), so neither its embedding "
            "nor its output head can be trained in full: remove training.lora.modulesToSave, or "
            "choose another base model"
        )


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
