"""``merge``: stream base and adapter, tensor by tensor, into the 16-bit model that is served.

Shapes do not change, so the position of every byte is known from the headers: a merge that cannot
succeed (a pair without a base tensor, a volume that is too small) fails before the first byte is
written. Each byte is read once and written once; digests are computed on the way. The process may
be killed at any moment: the next attempt keeps the completed shards (``safetensors_writer``). The
arithmetic is in ``lora_delta``.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import MergeArtifacts, Result
from finetune_api.contracts.stage_request import MergeStageRequest
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.checkpointing import (
    adapter_files,
    manifest,
    published,
    safetensors_writer,
)
from finetune_trainer.checkpointing.safetensors_header import Header
from finetune_trainer.errors import NotMergeable
from finetune_trainer.merging import (
    base_digests,
    base_tensors,
    lora_delta,
    malloc,
    ordered_map,
    request,
    side_files,
)
from finetune_trainer.merging.base_tensors import BaseTensors
from finetune_trainer.merging.request import MergeRequest
from finetune_trainer.quantization.quant_state import DequantizedBase
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.volume import disk
from finetune_trainer.volume.volume_errors import translate_volume_errors
from finetune_trainer.volume_layout import Layout

THREADS = 2
"""Threads that compute. A third one would wait for the digest of the result."""


def run(
    job: JobConfig,
    layout: Layout,
    progress: Progress,
    requested: MergeStageRequest,
) -> Result:
    """Merge a trained job, or return the result of an earlier attempt that published this build."""
    build = requested.build
    key = f"{job.digest} {build} {requested.dtype} {requested.base}"
    with translate_volume_errors(layout.work, "merging"):
        merged = manifest.valid(layout.merged(build), kind=published.MERGED, key=key)
        if merged is None:
            merged = _merge(request.resolve(job, layout, requested, key=key), progress)
            message = f"merged {merged.facts['pairs']} adapter pairs"
        else:
            message = "the model is already merged"
        layout.merging(build).unlink(missing_ok=True)
    progress.ratio(1.0)
    return Result(
        stage="merge",
        outcome="completed",
        reason=Reason.COMPLETED,
        message=message,
        artifacts=MergeArtifacts(
            merged=merged.digest, merged_manifest=merged.sha256, merged_dtype=merged.facts["dtype"]
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What to write, read from the headers of base and adapter."""

    tensors: BaseTensors
    adapter: adapter_files.Adapter
    dequantized: DequantizedBase | None
    shards: list[safetensors_writer.Shard]


def _merge(merging: MergeRequest, progress: Progress) -> manifest.Manifest:
    with base_digests.blamed_on_base(lambda: base_digests.check(merging, merging.shards)):
        plan = _plan(merging)
    manifest.sweep(merging.layout.work, but=[merging.scratch])
    done = safetensors_writer.ShardProgress(
        merging.layout.merging(merging.build), merging.scratch, merging.identity
    )
    _write_missing(merging, plan, done, progress)
    _require_each_pair_once(plan.adapter, done)
    facts = _facts(merging, pairs=len(plan.adapter.targets))
    side_files.write(merging, facts, plan.shards)
    return manifest.publish(
        merging.scratch,
        merging.layout.merged(merging.build),
        kind=published.MERGED,
        key=merging.key,
        digests={name: entry["sha256"] for name, entry in done.done.items()},
        facts=facts,
    )


def _facts(merging: MergeRequest, *, pairs: int) -> dict[str, Any]:
    """Return the facts of the merged model's manifest. pairs: the merged pairs of matrices."""
    start = merging.trained.facts.get(published.START_FACT)
    return {
        "source": merging.base_manifest.facts["source"],
        "baseCommit": merging.base_manifest.facts["baseCommit"],
        **({published.START_FACT: start} if start is not None else {}),
        "datasetDigest": merging.trained.facts["datasetDigest"],
        "adapter": merging.trained.digest,
        "dtype": merging.dtype,
        "base": merging.base,
        "pairs": pairs,
        "versions": merging.trained.facts["versions"],
        "images": dict(merging.images),
    }


def _plan(merging: MergeRequest) -> _Plan:
    tensors = base_tensors.read(merging)
    return _Plan(
        tensors=tensors,
        adapter=adapter_files.read(merging.layout.adapter, tensors.header, tied=tensors.tied),
        dequantized=_dequantized(merging, tensors.header),
        shards=[
            safetensors_writer.plan_shard(tensors.header, name, merging.dtype, tensors.written)
            for name in merging.shards
            if tensors.header.of_file(name)
        ],
    )


def _dequantized(merging: MergeRequest, header: Header) -> DequantizedBase | None:
    if merging.base != "dequantized":
        return None
    dequantized = DequantizedBase(merging.trained, merging.layout.adapter)
    unknown = dequantized.tensors - set(header.tensors)
    if unknown:
        raise NotMergeable(
            f"the training quantized the tensor {min(unknown)}, but the files of the base model "
            "contain no tensor of this name: set merge.base to original"
        )
    return dequantized


def _write_missing(
    merging: MergeRequest,
    plan: _Plan,
    done: safetensors_writer.ShardProgress,
    progress: Progress,
) -> None:
    missing = [shard for shard in plan.shards if shard.name not in done.done]
    needed = sum(shard.size for shard in missing)
    disk.require(
        merging.layout.work,
        needed + sum(entry.size for entry in merging.other_files),
        f"the merged model ({merging.dtype})",
    )
    kept = f"; {len(done.done)} shards are already complete" if done.done else ""
    log(
        f"the adapter changes {len(plan.adapter.targets)} of the model's "
        f"{len(plan.tensors.stored)} tensors; writing {disk.human(needed)} in {merging.dtype}{kept}"
    )
    total = sum(shard.size for shard in plan.shards)
    progress.start_from(1 - needed / total)
    written = total - needed
    with parallel_map() as in_parallel:
        merger = lora_delta.LoraMerger(
            plan.adapter,
            dtype=getattr(torch, merging.dtype),
            dequantized=plan.dequantized,
            ordered_map=in_parallel,
        )
        for shard in missing:
            wrote = functools.partial(_report, progress, before=written, total=total)
            _write_shard(merging, shard, plan.tensors, merger, done, wrote)
            written += shard.size
            progress.ratio(written / total)


def _report(progress: Progress, count: int, *, before: int, total: int) -> None:
    """Report ``count`` bytes of the present shard, after ``before`` bytes of others."""
    progress.ratio((before + count) / total)


@contextmanager
def parallel_map() -> Iterator[lora_delta.OrderedMap]:
    """Merge pieces in parallel with one thread each, so that no thread waits within a piece."""
    malloc.keep()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(THREADS, "merging") as pool:
            yield functools.partial(ordered_map.in_order, pool, ahead=THREADS)
    finally:
        torch.set_num_threads(before)


def _write_shard(
    merging: MergeRequest,
    shard: safetensors_writer.Shard,
    tensors: BaseTensors,
    merger: lora_delta.LoraMerger,
    done: safetensors_writer.ShardProgress,
    wrote: Callable[[int], None],
) -> None:
    """Write a shard. wrote: is called after each tensor with the shard's bytes written so far."""
    target = merging.scratch / shard.name
    before, count = set(merger.applied), 0
    with (
        safetensors_writer.write_shard(target, shard) as writer,
        base_digests.checked_while_read(merging, shard.name),
    ):
        # The file is mapped: only pages that are read take memory.
        source: Any = safe_open(merging.layout.base / shard.name, framework="pt")
        for tensor in tensors.header.of_file(shard.name):
            for piece in merger.merge(source.get_tensor(tensors.stored[tensor.name]), tensor):
                data = piece.contiguous().view(torch.uint8).numpy()
                writer.write(memoryview(data))
                count += data.nbytes
            wrote(count)
    applied = merger.applied - before
    written: Any = safe_open(target, framework="pt")
    for name in sorted(applied & merger.pairs):
        merger.check(name, written.get_tensor(tensors.written[name]))
    done.finished(shard, writer.digest, applied)


def _require_each_pair_once(
    adapter: adapter_files.Adapter, done: safetensors_writer.ShardProgress
) -> None:
    applied = Counter(name for entry in done.done.values() for name in entry["applied"])
    wrong = {
        name for name in {*applied, *adapter.targets} if applied[name] != (name in adapter.targets)
    }
    if wrong:
        name = min(wrong)
        raise NotMergeable(
            f"the adapter weights of {name} were applied {applied[name]} times instead of once: to "
            "retrain, set spec.rerun to a new value; to keep only the adapter, set merge.enabled "
            "to false"
        )
