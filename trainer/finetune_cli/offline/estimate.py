"""``ftj estimate``: memory, disk and time of a FineTuneJob, before it is applied.

For a FineTuneEndpoint, and for the endpoint of a job, it prints how many adapters fit each GPU.

With ``--model`` (a folder or a config.json) nothing is downloaded; otherwise only config.json is
read from the hub. The exit code is that of the prepare stage if the cluster would reject the job:
82 if the job does not fit its GPU, 73 if it does not fit ``storage.size``, 64 if its GPU or its
base does not support the recipe, 86 if the trainer image does not support the GPU. It is 64 for an
unknown GPU, which cannot be checked.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_api import KIND, quantity
from finetune_api.contracts.stage_request import ServingSettings
from finetune_api.v1alpha1.profile import Price
from finetune_api.v1alpha1.resources import Backend
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.training.training import Training
from finetune_cli import options, terminal
from finetune_cli.offline import base_config, endpoint_estimate, job_file, profile_file
from finetune_cli.offline import price as prices
from finetune_cli.offline.endpoint_estimate import Endpoint, EndpointEstimate
from finetune_cli.offline.job_file import CHART_CARD, SpecFile
from finetune_cli.offline.price_options import PriceOption, ProfileOption
from finetune_cli.options import Format, Manifest, ManifestOption, Output
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


def _number(text: str) -> Any:
    return typer.Option(metavar="N", help=text, min=0)


def run(
    manifest: Manifest = None,
    file: ManifestOption = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="folder or config.json of the base model; default: read config.json from its "
            "source",
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"GPU model, as in the node label {PRODUCT_LABEL}; default: the GPU model in "
            f"placement.nodeSelector or in the profile, or {CHART_CARD}",
        ),
    ] = None,
    rows: Annotated[
        int | None, _number("number of training rows, to estimate steps and time")
    ] = None,
    tokens: Annotated[int | None, _number("number of tokens in all rows, to estimate time")] = None,
    longest: Annotated[int | None, _number("number of tokens in the longest row")] = None,
    unsloth: Annotated[
        bool, typer.Option("--unsloth", help="assume a trainer image that contains Unsloth")
    ] = False,
    price: PriceOption = None,
    profile: ProfileOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print JSON, in bytes and seconds; as -o json")
    ] = False,
    output: Output = Format.TEXT,
) -> int:
    """Print the estimate. Raises InvalidSpec, DoesNotFit, VolumeFull or a hub error."""
    path = options.file(manifest, file)
    documents = job_file.load(path)
    endpoints = endpoint_estimate.of_file(documents, at=str(path))
    if endpoints and sum(document.get("kind") == KIND for document in documents) != 1:
        return _of_endpoints(
            [of_endpoint(endpoint, model=model, card=card) for endpoint in endpoints],
            as_json=as_json or output is Format.JSON,
        )
    offer = profile_file.of(profile, documents, at=str(path))
    read = job_file.of(documents, at=str(path), defaults=offer.defaults)
    data = data_of(read, rows=rows, tokens=tokens, longest=longest)
    per_hour = prices.of(price) or offer.price
    estimated = of(read, model=model, card=card, offered=offer.card, data=data, unsloth=unsloth)
    shared = endpoint_estimate.of_job(read, endpoints)
    of_shared = None if shared is None else of_endpoint(shared, model=model, card=card)
    json_wanted = as_json or output is Format.JSON
    facts = report.facts(estimated.estimate)
    if of_shared is not None:
        facts["endpoint"] = of_shared.facts
    if json_wanted:
        print(json.dumps(facts, indent=1))
    else:
        terminal.aligned(estimated.text)
        if of_shared is not None:
            terminal.aligned(f"\n{of_shared.text}")
    if per_hour is not None and not json_wanted:
        terminal.aligned(f"\n{_cost(estimated.estimate, per_hour, read)}")
    for warning in (*estimated.warnings, *filter(None, [offer.warning])):
        print(f"\nwarning: {warning}", file=sys.stderr)
    if estimated.refusal is not None:
        raise estimated.refusal
    if of_shared is not None and of_shared.refusal is not None:
        raise of_shared.refusal
    _require_known(estimated.card)
    return 0


def _of_endpoints(estimates: list[EndpointEstimate], *, as_json: bool) -> int:
    """Print estimates of endpoints. Raises DoesNotFit."""
    if as_json:
        print(json.dumps([estimated.facts for estimated in estimates], indent=1))
    else:
        print("\n\n".join(estimated.text for estimated in estimates))
    for estimated in estimates:
        if estimated.refusal is not None:
            raise estimated.refusal
    return 0


def of_endpoint(endpoint: Endpoint, *, model: Path | None, card: str | None) -> EndpointEstimate:
    """Return the estimate of an endpoint. Raises InvalidSpec or a hub error.

    model: folder or config.json of the base; None to read it from its source. card: by default that
    of the endpoint or of the chart.
    """
    name = card or endpoint.product or CHART_CARD
    _require_known(name)
    base = _shape(base_config.of(endpoint.spec.model, model), endpoint.spec.model.source)
    return endpoint_estimate.estimate(endpoint, base, cards.find(name))


def _require_known(card: str) -> None:
    """Raise InvalidSpec for a card that is not in the table."""
    if cards.find(card) is None:
        close = " or ".join(cards.similar(card))
        hint = f"Did you mean {close}?" if close else f"Known GPUs: {', '.join(cards.CARDS)}"
        raise InvalidSpec(
            f"GPU {card} is not in the GPU table, so its memory is not checked. {hint}"
        )


def of(
    file: SpecFile,
    *,
    model: Path | None,
    card: str | None = None,
    offered: str | None = None,
    data: Data | None = None,
    unsloth: bool = False,
) -> Estimated:
    """Return the estimate of a job. Raises InvalidSpec or a hub error.

    model: folder or config.json of the base; None to read it from its source. card: by default that
    of the job, of its profile (offered) or of the chart. data: by default without numbers of rows
    and tokens. unsloth: whether the trainer image contains Unsloth.
    """
    spec = file.resolved.spec
    config = base_config.of(spec.model, model)
    model_shape = _shape(config, spec.model.source)
    selected = (spec.placement.node_selector or {}).get(PRODUCT_LABEL)
    name = card or selected or offered or CHART_CARD
    data = data or data_of(file, rows=None, tokens=None, longest=None)
    serving = ServingSettings.of(spec)
    estimate_options = EstimateOptions(card=cards.find(name), serving=serving, merges=file.merges)
    image = _image(spec.training.advanced.backend, unsloth=unsloth)
    facts = Facts(recipe=spec.training, image=image).of_base(config)
    backend = backend_choice.choose(facts)
    recipe = backend_choice.with_backend(spec.training, backend.name)
    expected = estimate(model_shape, recipe, data=data, options=estimate_options)
    possible = backend_choice.possible(facts)
    return Estimated(
        title=f"{file.name}: {spec.model.source.removeprefix('hf://')}",
        card=name,
        backend=backend,
        estimate=expected,
        warnings=(*verdict.warnings(expected), *_warnings(spec, model_shape)),
        refusal=_unsupported(recipe, estimate_options, config)
        or verdict.refusal(expected, model_shape, recipe, data, serving, possible)
        or verdict.host_refusal(expected, _limit(spec))
        or verdict.volume_refusal(expected, int(quantity.amount(spec.storage.size))),
    )


def _cost(expected: Estimate, price: Price, file: SpecFile) -> str:
    """Return the expected cost of training as a sentence."""
    if expected.seconds is None:
        return (
            "The cost of training is unknown without its duration. Set --rows and --tokens, and a "
            "known --card."
        )
    limit = file.resolved.spec.run_policy.max_gpu_seconds
    return prices.line(price, expected.seconds, limit)


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


def data_of(file: SpecFile, *, rows: int | None, tokens: int | None, longest: int | None) -> Data:
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


def _shape(config: dict[str, Any], source: str) -> Shape:
    """Return the shape of a base. Raises InvalidSpec for a family without one."""
    read_shape = shape.read(text_config(config))
    if read_shape is None:
        raise InvalidSpec(
            f"the estimate does not support the family of model {source}. The prepare stage "
            "accepts this model, but does not estimate how much memory the job needs"
        )
    return read_shape


def _image(written: str, *, unsloth: bool) -> dict[str, str]:
    """Return the training libraries of the trainer image: TRL, and those installed here.

    A job that sets Unsloth needs an image with Unsloth; the cluster reports an image without it.
    """
    assumed = {TRL: ""} | ({UNSLOTH: ""} if unsloth or written == UNSLOTH else {})
    return assumed | backend_choice.installed()
