"""Volumes for merge benchmarks: bases with real shapes and random weights, and adapters.

The cost of a merge does not depend on the weights. Its accuracy does slightly: random weights have
no outliers, which 4 bits represent poorly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.trainer import tiny

from bench.training import workload
from finetune_api.contracts.job_config import JobConfig
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.volume.files import fresh
from finetune_trainer.volume_layout import Layout

VOCABULARY = 128256
RANK, ALPHA = 16, 32


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama; ``config`` are arguments of transformers' LlamaConfig."""

    name: str
    config: Mapping[str, Any]


SMALL = Shape(
    name="1.2 B parameters (widths of Llama 3.2 1B, tied)",
    config={
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
)
WIDE = Shape(
    name="3.6 GiB (widths of Llama 3 8B, 4 layers)",
    config={
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 4,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
)

TINY = Shape(
    name="tiny (dry run; the results are meaningless)",
    config={
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
)
SHAPES = {"small": SMALL, "wide": WIDE, "tiny": TINY}


def job() -> JobConfig:
    """Return the job that the earlier stages would have run for."""
    return JobConfig.model_validate(tiny.job("hf://bench/base", "hf://bench/rows"))


def make(layout: Layout, shape: Shape) -> None:
    """Publish a base and an adapter as the earlier stages would."""
    import peft
    import torch
    import transformers

    from finetune_trainer.quantization import quant_state

    facts: dict[str, Any] = {"source": "hf://bench/base", "baseCommit": "0" * 40}
    scratch = fresh(layout.scratch("base"))
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": 2048, **shape.config}
    workload.random_llama(**sizes).save_pretrained(scratch, max_shard_size="1GB")
    manifest.publish(scratch, layout.base, kind=published.BASE, key=job().digest, facts=facts)

    wanted = job().training.advanced.quantization
    model = transformers.AutoModelForCausalLM.from_pretrained(
        layout.base,
        dtype=torch.bfloat16,
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=wanted.type,
            bnb_4bit_use_double_quant=wanted.double_quant,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    recorded = quant_state.record_quantization(model)
    scratch = fresh(layout.scratch("adapter"))
    recorded.save(scratch)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    adapted = peft.get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(scratch)
    facts |= {
        "datasetDigest": "",
        "versions": {},
        "quantizedModules": dict(recorded.digests),
        "quantization": wanted.model_dump(mode="json", by_alias=True),
    }
    manifest.publish(scratch, layout.adapter, kind=published.ADAPTER, key=job().digest, facts=facts)
