"""The merged model's files other than its weights."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_trainer.checkpointing import published
from finetune_trainer.checkpointing.safetensors_writer import Shard
from finetune_trainer.merging import merged_config
from finetune_trainer.merging.request import MergeRequest
from finetune_trainer.models import base_files
from finetune_trainer.reporting import markdown, merged_card
from finetune_trainer.volume.files import read_json, write_json


def write(request: MergeRequest, facts: Mapping[str, Any], shards: Sequence[Shard]) -> None:
    """Write configuration, tokenizer, index and model card, from the facts of the manifest.

    If the training prompts were rendered with another chat template than the base's, that template
    is used.
    """
    scratch = request.scratch
    copy(
        request.layout.base,
        scratch,
        [entry.name for entry in request.other_files],
        shards,
        dtype=request.dtype,
        is_text_model=request.is_text_model,
    )
    template = request.layout.adapter / published.CHAT_TEMPLATE
    if template.is_file():
        shutil.copyfile(template, scratch / template.name)
    card = merged_card.render(request.job, request.build, facts)
    (scratch / markdown.FILE).write_text(card, encoding="utf-8")


def copy(
    source: Path,
    target: Path,
    names: Collection[str],
    shards: Sequence[Shard],
    *,
    dtype: str,
    is_text_model: bool,
) -> None:
    """Copy the named files of a base to a model in another number format, with two exceptions.

    config.json gets the number format, which vLLM uses, and for a multimodal base it is that of the
    text model; the index lists the tensors of the shards, and the size of all of them in bytes.
    """
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if name not in (base_files.CONFIG, base_files.INDEX):
            shutil.copyfile(source / name, target / name)
    if is_text_model:
        merged_config.write_text_model(source, target / base_files.CONFIG, dtype)
    else:
        merged_config.write(source / base_files.CONFIG, target / base_files.CONFIG, dtype)
    if base_files.INDEX in names:
        index = read_json(source / base_files.INDEX)
        total = sum(shard.data for shard in shards)
        index["metadata"] = index.get("metadata", {}) | {"total_size": total}
        if is_text_model:
            index["weight_map"] = {
                name: shard.name
                for shard in shards
                for name in shard.entries
                if name != "__metadata__"
            }
        write_json(target / base_files.INDEX, index)
