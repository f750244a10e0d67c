"""``base``: make the base of a shared endpoint, unless it is on the claim already.

A dequantized base is made in two passes over the published one: the first quantizes each weight and
records it, the second writes the weights with the arithmetic of the merge. A killed process repeats
the first pass, or one shard of the second. The published files are deleted at the end.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from finetune_api.contracts.endpoint import (
    BASE_FILES_FACT,
    BASE_SCALES,
    codes_digest,
    source_digest,
)
from finetune_api.contracts.result import Result
from finetune_api.contracts.stage_request import BaseStageRequest
from finetune_api.revision_hash import digest
from finetune_api.safety.redaction import one_line
from finetune_api.v1alpha1.endpoints.status import PreparedBase
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.training.advanced import Quantization
from finetune_trainer.checkpointing import manifest, published, safetensors_writer
from finetune_trainer.checkpointing.adapter_files import Adapter
from finetune_trainer.checkpointing.manifest import Manifest
from finetune_trainer.checkpointing.safetensors_header import Header, read_header
from finetune_trainer.checkpointing.safetensors_writer import Shard, ShardProgress
from finetune_trainer.compatibility import merged_dtype
from finetune_trainer.endpoint_base.download import Source, download
from finetune_trainer.endpoint_base.layout import SCALES, SHARDS
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.merging import side_files
from finetune_trainer.merging.lora_delta import LoraMerger
from finetune_trainer.merging.merge import parallel_map
from finetune_trainer.models import tensor_names, text_model
from finetune_trainer.models.tensor_names import TensorNames
from finetune_trainer.quantization.quant_state import DequantizedBase
from finetune_trainer.quantization.record_weight import record_weight, together
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.volume import disk
from finetune_trainer.volume.files import fresh
from finetune_trainer.volume.volume_errors import translate_volume_errors
from finetune_trainer.volume_layout import Layout

FORMATS = ("float16", "bfloat16", "float32")
QUANTIZATION = Quantization()
"""That of a training by default, which all adapters of the endpoint must have."""


def run(request: BaseStageRequest, layout: Layout, progress: Progress) -> Result:
    """Return what the base is, after it was made."""
    key = _key(request)
    with translate_volume_errors(layout.work, "making the base"):
        base = manifest.valid(layout.base, kind=published.BASE, key=key)
        message = "the base is already made"
        if base is None:
            source = download(request, layout, progress)
            make = _dequantized if request.base == "dequantized" else _original
            base = make(request, source, layout, key)
            message = f"made the base from commit {source.commit[:12]}"
        manifest.sweep(layout.work)
        layout.merging(SHARDS).unlink(missing_ok=True)
    progress.ratio(1.0)
    return Result(
        stage="base",
        outcome="completed",
        reason=Reason.COMPLETED,
        message=message,
        artifacts=_artifacts(base),
    )


def _artifacts(base: Manifest) -> PreparedBase:
    facts = base.facts
    codes = facts.get("quantizedModules")
    return PreparedBase(
        manifest=base.sha256,
        source=source_digest(facts[BASE_FILES_FACT]),
        codes=None if codes is None else codes_digest(codes),
        commit=facts["baseCommit"],
        dtype=facts["dtype"],
        bytes=base.size(),
        modules=facts["modules"],
    )


def _key(request: BaseStageRequest) -> str:
    """Return what identifies the base that a request asks for."""
    model = request.model
    values = [model.source, model.revision, model.sha256, request.base]
    if request.base == "dequantized":
        values += [request.dtype, request.quantized_by]
    return digest(values)


def _facts(request: BaseStageRequest, source: Source) -> dict[str, Any]:
    licensed = {} if source.license is None else {published.LICENSE_FACT: source.license}
    return {
        "source": request.model.source,
        "baseCommit": source.commit,
        BASE_FILES_FACT: dict(source.digests),
        "base": request.base,
        "modules": list(source.adapted),
        **licensed,
    }


def _original(request: BaseStageRequest, source: Source, layout: Layout, key: str) -> Manifest:
    """Publish the downloaded files."""
    return manifest.publish(
        source.folder,
        layout.base,
        kind=published.BASE,
        key=key,
        digests=source.digests,
        facts=_facts(request, source) | {"dtype": _dtype(source)},
    )


def _dtype(source: Source) -> str:
    """Return the number format that config.json of a base states, or the default of libraries."""
    stated = source.config.get("dtype") or source.config.get("torch_dtype") or "float32"
    if stated not in FORMATS:
        raise InvalidSpec(
            f"config.json of the model states the number format {one_line(str(stated), 40)}: "
            f"choose a model with {', '.join(FORMATS)}, or set base: dequantized"
        )
    return str(stated)


def _dequantized(request: BaseStageRequest, source: Source, layout: Layout, key: str) -> Manifest:
    """Publish the weights as a training uses them, in 16 bits."""
    dtype = merged_dtype.resolve(request.dtype, source.config)
    tensors = _tensors(source)
    recorded = _recorded(request, source, layout, tensors)
    plan = [
        safetensors_writer.plan_shard(tensors.header, name, dtype, tensors.written)
        for name in source.shards
        if tensors.header.of_file(name)
    ]
    identity = digest([key, source.commit, dict(source.digests), dtype])
    scratch = layout.scratch(SHARDS)
    done = ShardProgress(layout.merging(SHARDS), scratch, identity)
    missing = [shard for shard in plan if shard.name not in done.done]
    disk.require(layout.work, sum(planned.size for planned in missing), f"the base ({dtype})")
    nothing = Adapter(path=scratch, pairs={}, replacements={}, header=tensors.header)
    with parallel_map() as ordered_map:
        merger = LoraMerger(
            nothing,
            dtype=getattr(torch, dtype),
            dequantized=recorded.base,
            ordered_map=ordered_map,
        )
        for shard in missing:
            done.finished(shard, _write(source.folder, scratch, shard, tensors, merger), [])
    others = sorted(source.digests.keys() - {*source.shards})
    side_files.copy(
        source.folder, scratch, others, plan, dtype=dtype, is_text_model=tensors.is_text_model
    )
    shutil.copyfile(recorded.scales, scratch / BASE_SCALES)
    return manifest.publish(
        scratch,
        layout.base,
        kind=published.BASE,
        key=key,
        digests={name: entry["sha256"] for name, entry in done.done.items()},
        facts=_facts(request, source) | recorded.facts | {"dtype": dtype},
    )


@dataclass(frozen=True, kw_only=True)
class _Tensors:
    """The tensors of the source: by names of the model, as for the merge."""

    header: Header
    names: TensorNames
    is_text_model: bool

    @property
    def written(self) -> dict[str, str]:
        return {name: self.names.written[file] for name, file in self.names.stored.items()}


def _tensors(source: Source) -> _Tensors:
    files = read_header(source.folder, source.shards)
    names = tensor_names.find(source.folder, files.tensors)
    return _Tensors(
        header=names.header(files),
        names=names,
        is_text_model=text_model.extracted(source.folder) is not None,
    )


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """The quantized weights. scales: their file."""

    base: DequantizedBase
    scales: Path
    facts: dict[str, Any]


def _recorded(
    request: BaseStageRequest, source: Source, layout: Layout, tensors: _Tensors
) -> _Recorded:
    """Quantize each weight that a training quantizes."""
    by_cuda = request.quantized_by == "cuda"
    records = (
        record_weight(module, weight, QUANTIZATION, by_cuda=by_cuda)
        for module, weight in _weights(source, tensors)
    )
    record = together(records)
    log(f"quantized {len(record.digests)} weights of the base")
    folder = fresh(layout.scratch(SCALES))
    record.save(folder)
    facts = {
        "quantizedModules": dict(record.digests),
        "quantization": QUANTIZATION.model_dump(mode="json", by_alias=True),
        "device": request.quantized_by,
    }
    trained = Manifest(kind=published.ADAPTER, key="", files=(), facts=facts)
    return _Recorded(
        base=DequantizedBase(trained, folder), scales=folder / published.QUANTIZATION, facts=facts
    )


def _weights(source: Source, tensors: _Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the quantized modules in the order of the files, each with its weight."""
    for name, tensor in tensors.header.tensors.items():
        module = name.removesuffix(".weight")
        if module != name and module in source.quantized:
            file: Any = safe_open(source.folder / tensor.file, framework="pt")
            yield module, file.get_tensor(tensors.names.stored[name])


def _write(source: Path, scratch: Path, shard: Shard, tensors: _Tensors, merger: LoraMerger) -> str:
    """Write a shard; return its SHA-256."""
    # The file is mapped: only pages that are read take memory.
    file: Any = safe_open(source / shard.name, framework="pt")
    stored = tensors.names.stored
    with safetensors_writer.write_shard(scratch / shard.name, shard) as writer:
        for tensor in tensors.header.of_file(shard.name):
            for piece in merger.merge(file.get_tensor(stored[tensor.name]), tensor):
                writer.write(memoryview(piece.contiguous().view(torch.uint8).numpy()))
    return writer.digest
