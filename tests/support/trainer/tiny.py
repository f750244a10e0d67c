"""A Llama model with 2 layers and a byte-level tokenizer, datasets, and job configurations."""

import json
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
CAPITALS = ["France: Paris", "Spain: Madrid", "Italy: Rome", "Peru: Lima", "Kenya: Nairobi"]


def tokenizer(*, chat: bool = True, bos: bool = False) -> Any:
    """Return a tokenizer with one token per byte and the ChatML special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<|im_end|>", "<|im_start|>", "<s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 2)]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        bos_token="<s>" if bos else None,
    )
    wrapped.chat_template = CHAT_TEMPLATE if chat else None
    return wrapped


def model(
    folder: Path,
    *,
    chat: bool = True,
    bos: bool = False,
    dtype: str = "bfloat16",
    tied: bool = False,
    shard: str = "120KB",
    **changes: Any,
) -> Path:
    """Write a random model with its tokenizer and several shards, like a repository."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    ends = {"tie_word_embeddings": tied, "bos_token_id": 2 if bos else None, "eos_token_id": 0}
    settings = SHAPE | ends | changes
    made = LlamaForCausalLM(LlamaConfig(**settings)).to(getattr(torch, dtype))
    made.save_pretrained(folder, max_shard_size=shard)
    tokenizer(chat=chat, bos=bos).save_pretrained(folder)
    return folder


def rows(count: int) -> list[dict[str, str]]:
    """Return distinct alpaca rows."""
    made = []
    for at in range(count):
        country, capital = CAPITALS[at % len(CAPITALS)].split(": ")
        made.append(
            {"instruction": f"Capital of {country} ({at})?", "input": "", "output": f"{capital}."}
        )
    return made


def dataset(folder: Path, rows: list[Any], name: str = "train.jsonl") -> Path:
    """Write rows to a folder with one JSON-lines file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def job(base: str, rows: str, /, **changes: Any) -> dict[str, Any]:
    """Return a job.json like that of the operator: a short run with few tokens.

    changes: fields of model, dataset, training and evaluation that are merged into the spec.
    """
    from finetune_api.defaulting import builtin_defaults, resolve
    from finetune_api.v1alpha1.data.dataset import Dataset

    spec: dict[str, Any] = {
        "model": {"source": base},
        "dataset": {"source": rows, "format": "alpaca"},
        "training": {
            "maxSteps": 6,
            "learningRate": 1e-2,
            "effectiveBatchSize": 4,
            "sequenceLength": 128,
            "packing": "never",
            "advanced": {"backend": "trl", "gradientCheckpointing": False},
        },
    }
    found = resolve(merged(spec, changes), builtin_defaults())
    document = found.spec.model_dump(mode="json", by_alias=True)
    document["dataset"] = found.spec.common_dataset.model_dump(
        mode="json", by_alias=True, include=set(Dataset.model_fields)
    )
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "namespace": "test",
        "name": "tiny",
        "revision": found.revision,
        "digest": found.digest,
        **{part: document[part] for part in ("model", "dataset", "datasets", "training")},
        "evaluationDataset": document["evaluation"]["dataset"],
    }


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return ``below`` with the values of ``above``; objects are merged."""
    result = dict(below)
    for key, value in above.items():
        inside = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if inside else value
    return result
