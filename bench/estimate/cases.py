"""The steps that are traced: sizes of published models, and recipes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.training.advanced import AdvancedTraining, Quantization
from finetune_api.v1alpha1.training.lora import Lora
from finetune_api.v1alpha1.training.training import Training

LAYERS = 4
"""Layers of the models that are traced in part. Each further layer adds the same bytes."""
LLAMA3: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
MODELS: dict[str, dict[str, Any]] = {
    "Llama 3 8B": LLAMA3,
    "Mistral 7B v0.3": LLAMA3
    | {"model_type": "mistral", "vocab_size": 32768, "sliding_window": None},
    "Qwen 2.5 7B": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "Qwen 3 8B": {
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
    "Gemma 7B": {
        "model_type": "gemma",
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "vocab_size": 256000,
        "tie_word_embeddings": True,
    },
    "Gemma 2 9B": {
        "model_type": "gemma2",
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "vocab_size": 256000,
        "tie_word_embeddings": True,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
    },
    "Gemma 3 4B, text": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "tie_word_embeddings": True,
        "sliding_window": 1024,
    },
    "Phi 3 mini": {
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
    },
    "Granite 3 8B": {
        "model_type": "granite",
        "hidden_size": 4096,
        "intermediate_size": 12800,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 49155,
        "tie_word_embeddings": True,
    },
    "OLMo 2 7B": {
        "model_type": "olmo2",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 100352,
        "tie_word_embeddings": False,
    },
    "SmolLM 3 3B": {
        "model_type": "smollm3",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    },
    "StableLM 2 1.6B": {
        "model_type": "stablelm",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 100352,
        "tie_word_embeddings": False,
    },
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table. layers: traced layers of the model, None for all of them."""

    model: str
    recipe: Training
    packed: bool
    micro_batch: int
    length: int
    layers: int | None = LAYERS
    note: str = ""

    @property
    def config(self) -> dict[str, Any]:
        """The sizes in config.json."""
        sizes = MODELS[self.model]
        return sizes if self.layers is None else sizes | {"num_hidden_layers": self.layers}


def recipe(*, lora: Lora | None = None, **advanced: Any) -> Training:
    """Return a recipe for backend ``trl``."""
    return Training(lora=lora or Lora(), advanced=AdvancedTraining(backend="trl", **advanced))


STORED = recipe(gradient_checkpointing=False)
VARIANTS: dict[str, Training] = {
    "SDPA": recipe(attn_implementation="sdpa"),
    "SDPA, not packed": recipe(attn_implementation="sdpa", gradient_checkpointing=False),
    "eager": recipe(attn_implementation="eager"),
    "LoRA dropout": recipe(lora=Lora(dropout=0.05)),
    "r 32 on q and v": recipe(lora=Lora(r=32, target_modules=["q_proj", "v_proj"])),
    "float32": recipe(quantization=Quantization(compute_dtype="float32")),
    "DoRA": recipe(lora=Lora(use_dora=True)),
}


def whole() -> Iterator[Row]:
    """Yield the rows of a whole model."""
    for packed, micro, length, variant in (
        (True, 1, 8192, recipe()),
        (True, 8, 2048, recipe()),
        (False, 8, 1024, recipe()),
        (True, 1, 2048, STORED),
    ):
        yield Row(
            model="Llama 3 8B",
            recipe=variant,
            packed=packed,
            micro_batch=micro,
            length=length,
            layers=None,
        )


def sample() -> Iterator[Row]:
    """Yield the rows that the tests trace: each family with and without checkpointing."""
    for model in MODELS:
        yield Row(model=model, recipe=recipe(), packed=True, micro_batch=1, length=4096)
    for at, model in enumerate(MODELS):
        if at % 3 == 0:
            yield Row(model=model, recipe=STORED, packed=True, micro_batch=2, length=1024)
    for note, variant in VARIANTS.items():
        packed = not note.endswith("not packed")
        yield Row(
            model="Llama 3 8B",
            recipe=variant,
            packed=packed,
            micro_batch=1 if packed else 4,
            length=2048 if packed else 1024,
            note=note,
        )


def rows() -> Iterator[Row]:
    """Yield all rows of the table."""
    yield from whole()
    yield from sample()
    for at, model in enumerate(MODELS):
        yield Row(model=model, recipe=recipe(), packed=False, micro_batch=4, length=1024)
        if at % 3:
            yield Row(model=model, recipe=STORED, packed=True, micro_batch=2, length=1024)
