"""The merged model's files other than its weights."""

import shutil
from collections.abc import Mapping, Sequence
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

    All but the card are copies of the base's files, with three exceptions:

    config.json gets the merged number format, which vLLM uses, and for a multimodal base it is that
    of the text model; the index lists the tensors of the shards, and the size of all of them in
    bytes; and if the training prompts were rendered with another chat template than the base's,
    that template is used.
    """
    scratch, source = request.scratch, request.layout.base
    names = [entry.name for entry in request.other_files]
    for name in names:
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        if name not in (base_files.CONFIG, base_files.INDEX):
            shutil.copyfile(source / name, scratch / name)
    if request.is_text_model:
        merged_config.write_text_model(source, scratch / base_files.CONFIG, request.dtype)
    else:
        merged_config.write(source / base_files.CONFIG, scratch / base_files.CONFIG, request.dtype)
    if base_files.INDEX in names:
        index = read_json(source / base_files.INDEX)
        total = sum(shard.data for shard in shards)
        index["metadata"] = index.get("metadata", {}) | {"total_size": total}
        if request.is_text_model:
            index["weight_map"] = {
                name: shard.name
                for shard in shards
                for name in shard.entries
                if name != "__metadata__"
            }
        write_json(scratch / base_files.INDEX, index)
    template = request.layout.adapter / published.CHAT_TEMPLATE
    if template.is_file():
        shutil.copyfile(template, scratch / template.name)
    card = merged_card.render(request.job, request.build, facts)
    (scratch / markdown.FILE).write_text(card, encoding="utf-8")
