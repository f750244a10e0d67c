"""``merge``: base and adapter streamed, tensor by tensor, into the 16-bit model that is served.

Shapes do not change, so every byte's place is known from the headers: what cannot succeed (a pair
without a tensor, a volume too small) fails before the first byte is written. Each byte is read once
and written once: digests are computed as it passes. It may be killed at any moment: the next
attempt keeps the shards that are done (``shards``); the arithmetic is in ``folding``.
"""

import functools
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import Result
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.checkpointing import adapter_files, manifest, published, safetensors_writer
from finetune_trainer.checkpointing.safetensors_header import Header, read_header
from finetune_trainer.errors import NotMergeable, ResumeRefused
from finetune_trainer.merging import lora_delta
from finetune_trainer.models import base_files, merged_config
from finetune_trainer.quantization.record import RoundedBase
from finetune_trainer.runtime import daemon_thread, disk, malloc, ordered_map
from finetune_trainer.runtime.files import read_json, write_json
from finetune_trainer.runtime.progress import Progress, log
from finetune_trainer.runtime.volume_errors import translate_volume_errors
from finetune_trainer.volume_layout import Layout

KIND = "merged"
SHARD = ".safetensors"
FOLDING = 2
"""Threads that compute. What a third could add, the digest of the result would hold up."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One build: what it is made from, in which number format, and what names all of that."""

    layout: Layout
    build: str
    dtype: str
    base: str
    key: str
    base_manifest: manifest.Manifest
    trained: manifest.Manifest

    @property
    def scratch(self) -> Path:
        """Where it is written."""
        return self.layout.scratch(f"merged-{self.build}")

    @property
    def identity(self) -> str:
        """Everything that the merged bytes depend on."""
        return f"{self.key} {self.dtype} {self.base_manifest.digest} {self.trained.digest}"


def run(
    job: JobConfig, layout: Layout, progress: Progress, *, build: str, dtype: str, base: str
) -> Result:
    """Merge a trained job, or find that this build is merged already."""
    key = f"{job.revision} {build} {dtype} {base}"
    with translate_volume_errors(layout.work, "merging"):
        found = manifest.valid(layout.merged(build), kind=KIND, key=key)
        if found is None:
            request = _request(job, layout, build=build, dtype=dtype, base_kind=base, key=key)
            found = _merge(request, progress)
            message = f"{found.facts['pairs']} adapter pairs are merged"
        else:
            message = "merged already"
        layout.merging(build).unlink(missing_ok=True)
    progress.ratio(1.0)
    return Result(
        stage="merge",
        outcome="completed",
        reason=Reason.COMPLETED,
        message=message,
        artifacts={
            "merged": found.digest,
            "mergedDtype": found.facts["dtype"],
            "adapter": found.facts["adapter"],
            "baseCommit": found.facts["baseCommit"],
        },
    )


def _request(
    job: JobConfig, layout: Layout, *, build: str, dtype: str, base_kind: str, key: str
) -> Request:
    try:
        # The shards' own digests are computed while they are read to be merged.
        base_manifest = manifest.verify(
            layout.base, kind=published.BASE, key=job.revision, hashes=False
        )
        for entry in base_manifest.files:
            if not entry.name.endswith(SHARD):
                manifest.check_digest(layout.base, entry)
        trained = manifest.verify(layout.adapter, kind=published.ADAPTER, key=job.revision)
    except manifest.ManifestError as problem:
        raise ResumeRefused(f"{problem}: run the earlier stages again") from problem
    _refuse_pickles(layout.base, base_manifest)
    _refuse_pickles(layout.adapter, trained)
    if trained.facts["baseCommit"] != base_manifest.facts["baseCommit"]:
        raise NotMergeable(
            f"the adapter was trained on commit {trained.facts['baseCommit']}, the base on the "
            f"volume is {base_manifest.facts['baseCommit']}: run the earlier stages again"
        )
    return Request(
        layout=layout,
        build=build,
        dtype=merged_config.resolve_dtype(dtype, read_json(layout.base / base_files.CONFIG)),
        base=base_kind,
        key=key,
        base_manifest=base_manifest,
        trained=trained,
    )


def _refuse_pickles(folder: Path, listed: manifest.Manifest) -> None:
    pickles = [entry.name for entry in listed.files if entry.name.endswith(base_files.PICKLES)]
    if pickles:
        raise NotMergeable(
            f"{folder.name}/{pickles[0]} is a pickle, which is never loaded since it can run code: "
            "set spec.rerun to stage and train with safetensors"
        )


def _merge(request: Request, progress: Progress) -> manifest.Manifest:
    layout, facts = request.layout, request.trained.facts
    names = [entry.name for entry in request.base_manifest.files]
    files = [name for name in names if name.endswith(SHARD)]
    config = read_json(layout.base / base_files.CONFIG)
    with _blaming(lambda: _check(request, files)):
        header = read_header(layout.base, files)
        found = adapter_files.read(
            layout.adapter, header, tied=bool(config.get("tie_word_embeddings"))
        )
        rounded = _rounded(request, header)
        planned = [safetensors_writer.layout(header, name, request.dtype) for name in files]
    side = [entry for entry in request.base_manifest.files if entry.name not in files]
    manifest.sweep(layout.work, but=[request.scratch])
    done = safetensors_writer.Progress(
        layout.merging(request.build), request.scratch, request.identity
    )
    missing = [shard for shard in planned if shard.name not in done.done]
    needed = sum(shard.size for shard in missing)
    disk.require(
        layout.work,
        needed + sum(entry.size for entry in side),
        f"the merged model ({request.dtype})",
    )
    kept = f"; {len(done.done)} shards are done already" if done.done else ""
    log(
        f"merging {len(found.targets)} adapter pairs into {len(header.tensors)} tensors, "
        f"{disk.human(needed)} in {request.dtype}{kept}"
    )
    total = sum(shard.size for shard in planned)
    progress.start_from(1 - needed / total)
    written = total - needed
    with _spread() as spread:
        dtype = getattr(torch, request.dtype)
        folder = lora_delta.Folder(found, dtype=dtype, rounded=rounded, spread=spread)
        for shard in missing:
            _write(request, shard, header, folder, done)
            written += shard.size
            progress.ratio(written / total)
    applied = Counter(name for entry in done.done.values() for name in entry["applied"])
    wrong = {
        name for name in {*applied, *found.targets} if applied[name] != (name in found.targets)
    }
    if wrong:
        name = min(wrong)
        raise NotMergeable(f"{name} got its adapter pair {applied[name]} times instead of once")
    _beside_the_weights(request, [entry.name for entry in side], total=sum(s.data for s in planned))
    return manifest.publish(
        request.scratch,
        layout.merged(request.build),
        kind=KIND,
        key=request.key,
        known={name: entry["sha256"] for name, entry in done.done.items()},
        facts={
            "source": request.base_manifest.facts["source"],
            "baseCommit": request.base_manifest.facts["baseCommit"],
            "datasetDigest": facts["datasetDigest"],
            "adapter": request.trained.digest,
            "dtype": request.dtype,
            "base": request.base,
            "pairs": len(found.targets),
            "versions": facts["versions"],
        },
    )


@contextmanager
def _spread() -> Iterator[lora_delta.Spread]:
    """Compute pieces side by side, each by one thread: none waits for a part of a piece."""
    malloc.keep()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(FOLDING, "folding") as pool:
            yield functools.partial(ordered_map.in_order, pool, ahead=FOLDING)
    finally:
        torch.set_num_threads(before)


def _rounded(request: Request, header: Header) -> RoundedBase | None:
    if request.base != "dequantized":
        return None
    rounded = RoundedBase(request.trained, request.layout.adapter)
    strange = rounded.tensors - set(header.tensors)
    if strange:
        raise NotMergeable(
            f"training quantised {min(strange)}, which the base's files do not have under that "
            "name: set merge.base to original"
        )
    return rounded


def _write(
    request: Request,
    shard: safetensors_writer.Shard,
    header: Header,
    folder: lora_delta.Folder,
    done: safetensors_writer.Progress,
) -> None:
    target = request.scratch / shard.name
    before = set(folder.applied)
    with safetensors_writer.writing(target, shard) as writer, _intact(request, shard.name):
        # The file is mapped: only pages that are read take memory.
        source: Any = safe_open(request.layout.base / shard.name, framework="pt")
        for tensor in header.of_file(shard.name):
            for piece in folder.fold(source.get_tensor(tensor.name), tensor):
                data = piece.contiguous().view(torch.uint8).numpy()
                writer.write(memoryview(data))
    applied = folder.applied - before
    written: Any = safe_open(target, framework="pt")
    for name in sorted(applied & folder.pairs):
        folder.check(name, written.get_tensor(name))
    done.finished(shard, writer.digest, applied)


@contextmanager
def _intact(request: Request, name: str) -> Iterator[None]:
    """Compare a shard of the base with its digest while the block reads it.

    Both together read it from disk once: the digest goes ahead, in whole strides, and what is
    mapped finds its pages there. A stop (no Exception) does not wait for its end.
    """
    checked = daemon_thread.start(_check, request, [name])
    with _blaming(checked.result):
        yield
    checked.result()


@contextmanager
def _blaming(check: Callable[[], None]) -> Iterator[None]:
    """Where the block fails, check the base first: what is wrong may come from what it read."""
    try:
        yield
    except Exception:
        check()
        raise


def _check(request: Request, names: Collection[str]) -> None:
    """Raise ResumeRefused where one of these files of the base is not what it was."""
    try:
        for entry in request.base_manifest.files:
            if entry.name in names:
                manifest.check_digest(request.layout.base, entry)
    except manifest.ManifestError as problem:
        raise ResumeRefused(f"{problem}: run the earlier stages again") from problem


def _beside_the_weights(request: Request, names: list[str], *, total: int) -> None:
    """Write what belongs to the weights: all of it the base's, byte for byte, but for two files.

    config.json gets the merged number format, which vLLM follows, and the index its new total. The
    chat template is the one that rendered the training prompts, where that is not the base's own.
    """
    scratch, source = request.scratch, request.layout.base
    for name in names:
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        if name not in (base_files.CONFIG, base_files.INDEX):
            shutil.copyfile(source / name, scratch / name)
    merged_config.write(source / base_files.CONFIG, scratch / base_files.CONFIG, request.dtype)
    if base_files.INDEX in names:
        index = read_json(source / base_files.INDEX)
        index["metadata"] = index.get("metadata", {}) | {"total_size": total}
        write_json(scratch / base_files.INDEX, index)
    template = request.layout.adapter / "chat_template.jinja"
    if template.is_file():
        shutil.copyfile(template, scratch / template.name)
