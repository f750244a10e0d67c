"""Load the results of a job with transformers and PEFT, and compute logits."""

from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from bitsandbytes.nn import Linear4bit
from tests.support.trainer.workshop import Workshop

from finetune_trainer.data.token_store import TRAIN, Tokens


def load(folder: Path, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def ids(workshop: Workshop) -> torch.Tensor:
    """Return the first training row as a batch."""
    tokens = Tokens.load(workshop.work / "dataset" / TRAIN)
    return torch.tensor(tokens.input_ids[: tokens.rows[1]], dtype=torch.long)[None]


def quantized_base(workshop: Workshop) -> Any:
    """Return the 4-bit base as in the training, created from bfloat16, but with float32 compute."""
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = load(workshop.work / "base", dtype=torch.bfloat16, quantization_config=quantization)
    for module in base.modules():
        if isinstance(module, Linear4bit):
            # Weights that are repacked for AVX512-BF16 cannot be dequantized, which DoRA needs.
            module.support_avx512bf16_for_cpu = False
        else:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
    return base


def logits_of_all(workshop: Workshop, build: str) -> tuple[torch.Tensor, ...]:
    """Return the logits of the 4-bit base, the base with adapter, and the merged model."""
    with torch.no_grad():
        base = quantized_base(workshop)
        untuned = base(ids(workshop)).logits
        trained = peft.PeftModel.from_pretrained(base, workshop.work / "adapter").eval()
        merged = load(workshop.work / f"merged-{build}", dtype=torch.float32)
        return untuned, trained(ids(workshop)).logits, merged(ids(workshop)).logits
