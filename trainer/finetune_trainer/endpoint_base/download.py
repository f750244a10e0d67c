"""Download the published base of an endpoint, and check that it can be served to adapters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.contracts.stage_request import BaseStageRequest
from finetune_trainer.checkpointing import manifest
from finetune_trainer.checkpointing.safetensors_header import read_header
from finetune_trainer.devices import cards
from finetune_trainer.endpoint_base.layout import SCALES, SHARDS
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.estimate import endpoint_verdict, shape
from finetune_trainer.models import (
    architecture,
    base_files,
    special_layers,
    tensor_names,
    text_model,
)
from finetune_trainer.models.base_config import text_config
from finetune_trainer.preparation import base_source
from finetune_trainer.preparation.signed_sources import Signatures
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.sources import bytes_below, open_store
from finetune_trainer.volume import disk
from finetune_trainer.volume_layout import Layout


@dataclass(frozen=True, kw_only=True)
class Source:
    """The published base in a scratch folder. digests: SHA-256 (hex) of its files by name."""

    folder: Path
    commit: str
    config: Mapping[str, Any]
    digests: Mapping[str, str]
    shards: tuple[str, ...]
    quantized: frozenset[str]
    """Names of the modules that a training quantizes."""

    adapted: tuple[str, ...]
    """Names, without their path, of the modules that an adapter can change."""

    license: str | None


def download(request: BaseStageRequest, layout: Layout, progress: Progress) -> Source:
    """Pin, download and check the base. An interrupted download is resumed."""
    signatures = Signatures(request.signatures, layout)
    source, name = request.model.source, request.model.source.removeprefix("hf://")
    store = open_store("model", request.model)
    repository = store.pin()
    signatures.pinned("model", source, store, repository)
    log(f"model {name} is pinned to commit {repository.commit[:12]}")
    base_files.check_listing(repository)
    scratch = layout.scratch(f"source-{repository.commit[:12]}")
    manifest.sweep(layout.work, but=[scratch, layout.scratch(SHARDS), layout.scratch(SCALES)])
    small, digests = base_source.download_small(name, store, repository, scratch)
    config = base_files.check_config(scratch, source=name)
    _check_memory(request, config)
    if request.base == "original" and text_model.extracted(scratch) is not None:
        raise InvalidSpec(
            f"model {name} has a text model inside a larger one, and its adapters name only the "
            "layers of the text model: set base: dequantized, or choose a model for text alone"
        )
    shards = base_files.weight_files(scratch, repository.files)
    size = repository.size_of(shards)
    left = size - max(0, bytes_below(scratch) - repository.size_of(small))
    disk.require(layout.work, left, f"model {name} ({disk.human(size)})")
    digests |= base_source.download_weights(store, repository, shards, scratch, progress, left=left)
    signatures.check("model", digests)
    header = read_header(scratch, shards)
    names = tensor_names.find(scratch, header.tensors)
    architecture.check(scratch, header, names, source=name)
    model = text_model.build(scratch)
    return Source(
        folder=scratch,
        commit=repository.commit,
        config=config,
        digests=digests,
        shards=tuple(shards),
        quantized=frozenset(special_layers.quantized(model)),
        adapted=tuple(
            sorted({layer.rpartition(".")[2] for layer in special_layers.adapted(model)})
        ),
        license=repository.license,
    )


def _check_memory(request: BaseStageRequest, config: Mapping[str, Any]) -> None:
    """Raise DoesNotFit if the endpoint does not fit the smallest card that it may get."""
    named = [card for name in request.cards if (card := cards.find(name)) is not None]
    base = shape.read(text_config(config))
    if request.endpoint is None or base is None:
        return
    error = endpoint_verdict.refusal(base, request.endpoint, cards.smallest(named))
    if error is not None:
        raise error
