"""Whether a shared endpoint can serve an adapter, and with the weights of its training.

``prepare`` checks the recipe before a GPU is requested; the publish stage checks the adapter of a
training that was prepared for another kind of serving. Nothing here loads torch.
"""

from collections.abc import Mapping

from finetune_api.contracts.endpoint import codes_digest, source_digest
from finetune_api.contracts.publish_targets import SharedEndpoint
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.training.advanced import Quantization
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.checkpointing.adapter_files import EMBEDDINGS
from finetune_trainer.errors import InvalidSpec

MERGED = "set serving.mode: merged to serve the model on a GPU of its own"


def check_recipe(recipe: Training, endpoint: SharedEndpoint) -> None:
    """Raise InvalidSpec for an adapter that vLLM cannot apply beside others."""
    lora, where = recipe.lora, f"FineTuneEndpoint {endpoint.name}"
    if lora.r > endpoint.max_rank:
        raise InvalidSpec(
            f"training.lora.r is {lora.r}, but {where} serves adapters up to the rank "
            f"{endpoint.max_rank}: lower training.lora.r, raise lora.maxRank of the endpoint, or "
            f"{MERGED}"
        )
    if lora.use_dora:
        raise InvalidSpec(
            f"training.lora.useDora is true, but {where} cannot serve DoRA: remove useDora, or "
            f"{MERGED}"
        )
    if lora.modules_to_save:
        raise InvalidSpec(
            f"training.lora.modulesToSave is {', '.join(lora.modules_to_save)}, but {where} serves "
            f"LoRA matrices only: remove modulesToSave, or {MERGED}"
        )
    for name in lora.target_modules:
        if name.rpartition(".")[2] in EMBEDDINGS:
            raise InvalidSpec(
                f"training.lora.targetModules contains {name}, which {where} cannot adapt: remove "
                f"{name}, or {MERGED}"
            )
    if endpoint.base == "dequantized":
        _check_quantization(recipe.advanced.quantization, where)


def _check_quantization(written: Quantization, where: str) -> None:
    own, served = (
        quantization.model_dump(by_alias=True) for quantization in (written, Quantization())
    )
    different = next((name for name in served if own[name] != served[name]), None)
    if different is not None:
        path = f"training.advanced.quantization.{different}"
        raise InvalidSpec(
            f"{path} is {own[different]}, but the base of {where} is quantized with "
            f"{served[different]}: remove {path}, use an endpoint with base: original, or {MERGED}"
        )


def check_source(model: Model, endpoint: SharedEndpoint) -> None:
    """Raise InvalidSpec for another base, as far as its name shows it.

    Another source can have the same files, which the digests show if the endpoint has its base.
    """
    if endpoint.source is None and model.source != endpoint.model:
        raise InvalidSpec(
            f"model.source is {model.source}, but FineTuneEndpoint {endpoint.name} serves "
            f"{endpoint.model}: set model.source to that model, use an endpoint with this one, or "
            f"{MERGED}"
        )


def check_files(files: Mapping[str, str], endpoint: SharedEndpoint) -> None:
    """Raise InvalidSpec for other files of the base. files: SHA-256 (hex) by name."""
    digest = source_digest(files)
    if endpoint.source not in (None, digest):
        raise InvalidSpec(
            f"the files of the base (digest {digest[:16]}…) differ from those of FineTuneEndpoint "
            f"{endpoint.name} (digest {(endpoint.source or '')[:16]}…): set model.source and "
            f"model.revision to those of the endpoint, or {MERGED}"
        )


def check_codes(modules: Mapping[str, str], endpoint: SharedEndpoint) -> None:
    """Raise InvalidSpec for other 4-bit weights. modules: SHA-256 (hex) of their codes."""
    digest = codes_digest(modules)
    if endpoint.base == "dequantized" and endpoint.codes not in (None, digest):
        raise InvalidSpec(
            f"the 4-bit weights of the training (digest {digest[:16]}…) differ from those of "
            f"FineTuneEndpoint {endpoint.name} (digest {(endpoint.codes or '')[:16]}…): use an "
            f"endpoint with base: original, or {MERGED}"
        )
