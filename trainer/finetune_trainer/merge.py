"""``merge``: base and adapter streamed, tensor by tensor, into the 16-bit model that is served.

    W' = cast(W + scaling · B·A)            the sum in float32, one rounding at its end
    W  = the base's weight, or dequantised(NF4(weight)), which is what the adapter was trained
         against, for exactly the modules that were quantised in training

Shapes do not change, so every byte's place is known from the headers: what cannot succeed (a pair
without a tensor, a volume too small) fails before the first byte is written.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune_api.job import JobConfig
from finetune_api.recipe import Quantization
from finetune_api.result import Result
from finetune_trainer import adapter, base, disk, manifest, merged_config, stage_base, train
from finetune_trainer.errors import NotMergeable, ResumeRefused, full_volume_named
from finetune_trainer.layout import Layout
from finetune_trainer.progress import Progress, log
from finetune_trainer.tensors import FLOATS, TensorInfo, encode_header, read_header
from finetune_trainer.weights import Mapped

KIND = "merged"
DTYPES = {"float16": "F16", "bfloat16": "BF16"}
CHUNK = 8 * 1024 * 1024
"""Numbers that are cast and written at a time."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One build: what it is made from and in which number format."""

    layout: Layout
    build: str
    dtype: str
    dequantize: frozenset[str]
    """Names of the base tensors that were quantised in training; empty for the original base."""
    quantization: Quantization


def run(
    job: JobConfig, layout: Layout, progress: Progress, *, build: str, dtype: str, base: str
) -> Result:
    """Merge a trained job, or find that this build is merged already."""
    key = f"{job.revision} {build} {dtype} {base}"
    final = layout.merged(build)
    found = manifest.valid(final, kind=KIND, key=key)
    if found is None:
        with full_volume_named(layout.work, "merging"):
            found = _merge(job, layout, progress, build=build, dtype=dtype, base_kind=base, key=key)
        message = f"{found.facts['pairs']} adapter pairs are merged"
    else:
        message = "merged already"
    progress.ratio(1.0)
    return Result(
        stage="merge",
        outcome="completed",
        reason="Completed",
        message=message,
        artifacts={
            "merged": found.digest,
            "mergedDtype": found.facts["dtype"],
            "adapter": found.facts["adapter"],
            "baseCommit": found.facts["baseCommit"],
        },
    )


def _merge(
    job: JobConfig,
    layout: Layout,
    progress: Progress,
    *,
    build: str,
    dtype: str,
    base_kind: str,
    key: str,
) -> manifest.Manifest:
    try:
        base_manifest = manifest.verify(layout.base, kind=stage_base.KIND, key=job.revision)
        trained = manifest.verify(layout.adapter, kind=train.KIND, key=job.revision)
    except manifest.ManifestError as problem:
        raise ResumeRefused(f"{problem}: run the earlier stages again") from problem
    facts = trained.facts
    if facts["baseCommit"] != base_manifest.facts["baseCommit"]:
        raise NotMergeable(
            f"the adapter was trained on commit {facts['baseCommit']}, the base on the volume is "
            f"{base_manifest.facts['baseCommit']}: run the earlier stages again"
        )
    chosen = merged_config.resolve_dtype(dtype, base.read_json(layout.base / base.CONFIG))
    quantized = frozenset(f"{name}.weight" for name in facts["quantizedModules"])
    request = Request(
        layout=layout,
        build=build,
        dtype=chosen,
        dequantize=quantized if base_kind == "dequantized" else frozenset(),
        quantization=Quantization.model_validate(facts["quantization"]),
    )
    scratch, pairs = _write_model(request, base_manifest, progress)
    merged_config.write(layout.base / base.CONFIG, scratch / base.CONFIG, chosen)
    return manifest.publish(
        scratch,
        layout.merged(build),
        kind=KIND,
        key=key,
        facts={
            "source": base_manifest.facts["source"],
            "baseCommit": base_manifest.facts["baseCommit"],
            "datasetDigest": facts["datasetDigest"],
            "adapter": trained.digest,
            "dtype": chosen,
            "base": base_kind,
            "pairs": pairs,
            "versions": facts["versions"],
        },
    )


def _write_model(
    request: Request, base_manifest: manifest.Manifest, progress: Progress
) -> tuple[Path, int]:
    layout = request.layout
    names = [entry.name for entry in base_manifest.files]
    shards = [name for name in names if name.endswith(".safetensors")]
    header = read_header(layout.base, shards)
    found = adapter.read(layout.adapter, header)
    strange = request.dequantize - set(header.tensors)
    if strange:
        raise NotMergeable(
            f"training quantised {min(strange)}, which the base's files do not have under that "
            "name: set merge.base to original"
        )
    sizes = {shard: _layout_of(header.of_file(shard), request.dtype) for shard in shards}
    side = [name for name in names if name not in shards]
    needed = sum(end for _, end in sizes.values())
    manifest.sweep(layout.work)
    disk.require(
        layout.work,
        needed + sum(entry.size for entry in base_manifest.files if entry.name in side),
        f"the merged model ({request.dtype})",
    )
    log(
        f"merging {len(found.pairs)} adapter pairs into {len(header.tensors)} tensors, "
        f"{disk.human(needed)} in {request.dtype}"
    )
    scratch = manifest.fresh(layout.scratch(f"merged-{request.build}"))
    for name in side:
        if name in (base.CONFIG, base.INDEX):
            continue
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(layout.base / name, scratch / name)
    if base.INDEX in side:
        index = base.read_json(layout.base / base.INDEX)
        index["metadata"] = index.get("metadata", {}) | {"total_size": needed}
        manifest.write_json(scratch / base.INDEX, index)
    template = layout.adapter / "chat_template.jinja"
    if template.is_file():
        shutil.copyfile(template, scratch / template.name)
    merger = _Merger(request, found, progress, needed)
    for shard in shards:
        merger.write(shard, header.of_file(shard), header.metadata[shard], scratch)
    if merger.applied != set(found.pairs):
        missed = sorted(set(found.pairs) - merger.applied)
        raise NotMergeable(f"{len(missed)} adapter pairs were not applied, {missed[0]} among them")
    return scratch, len(merger.applied)


def _layout_of(tensors: list[TensorInfo], dtype: str) -> tuple[dict[str, Any], int]:
    """Return a shard's header entries in the new number format, and the bytes of its data."""
    entries, at = {}, 0
    for tensor in tensors:
        floating = tensor.dtype in FLOATS
        size = tensor.elements * 2 if floating else tensor.end - tensor.start
        entries[tensor.name] = {
            "dtype": DTYPES[dtype] if floating else tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    return entries, at


class _Merger:
    """Writes shards; ``applied`` has the names of the base tensors that got their pair."""

    def __init__(
        self, request: Request, found: adapter.Adapter, progress: Progress, needed: int
    ) -> None:
        self.request = request
        self.adapter = found
        self.weights = Mapped(found.path)
        self.applied: set[str] = set()
        self.dtype = getattr(torch, request.dtype)
        self._progress = progress
        self._needed = needed
        self._written = 0
        progress.start_from(0.0)

    def write(
        self, shard: str, tensors: list[TensorInfo], metadata: dict[str, str], scratch: Path
    ) -> None:
        """Write one shard."""
        entries, _ = _layout_of(tensors, self.request.dtype)
        if metadata:
            entries = {"__metadata__": metadata, **entries}
        source = Mapped(self.request.layout.base / shard)
        with (scratch / shard).open("wb") as file:
            file.write(encode_header(entries))
            for tensor in tensors:
                for piece in self._pieces(source.read(tensor.name), tensor):
                    data = piece.contiguous().view(torch.uint8).numpy()
                    file.write(memoryview(data))
                    self._written += data.nbytes
                self._progress.ratio(self._written / max(1, self._needed))
            file.flush()
            os.fsync(file.fileno())

    def _pieces(self, weight: torch.Tensor, tensor: TensorInfo) -> Iterator[torch.Tensor]:
        pair = self.adapter.pairs.get(tensor.name)
        if tensor.dtype not in FLOATS:
            if pair is not None:
                raise NotMergeable(f"{tensor.name} is {tensor.dtype}: nothing can be added to it")
            yield weight.reshape(-1)
            return
        if tensor.name in self.request.dequantize:
            weight = round_trip(weight, self.request.quantization)
        if pair is not None:
            if tensor.name in self.applied:
                raise NotMergeable(f"{tensor.name} would get its adapter pair twice")
            weight = self._add(weight, pair)
            self.applied.add(tensor.name)
        flat = weight.reshape(-1)
        for start in range(0, flat.numel(), CHUNK):
            yield self._cast(flat[start : start + CHUNK], tensor.name)

    def _add(self, weight: torch.Tensor, pair: adapter.Pair) -> torch.Tensor:
        a = self.weights.read(pair.a).float()
        b = self.weights.read(pair.b).float()
        delta = (b @ a).mul_(self.adapter.scaling)
        summed = delta.add_(weight)
        if pair.magnitude is None:
            return summed
        # DoRA: the direction of each row is trained apart from its length.
        length = torch.linalg.norm(summed, dim=1)
        return (self.weights.read(pair.magnitude).float() / length).view(-1, 1) * summed

    def _cast(self, values: torch.Tensor, name: str) -> torch.Tensor:
        cast = values.to(self.dtype)
        if not torch.isfinite(cast).all():
            if torch.isfinite(values).all():
                raise NotMergeable(
                    f"{name} reaches {values.abs().max().item():.4g}, which {self.request.dtype} "
                    "cannot hold: set merge.dtype to bfloat16"
                )
            raise NotMergeable(f"{name} is not finite: base or adapter is damaged")
        return cast


def round_trip(weight: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """Return a weight as training saw it: in the compute type, quantised and dequantised."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    codes, state = quantize_4bit(
        weight.to(getattr(torch, quantization.compute_dtype)),
        blocksize=64,
        compress_statistics=quantization.double_quant,
        quant_type=quantization.type,
    )
    return dequantize_4bit(codes, state)
