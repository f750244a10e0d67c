"""Turns a GGUF model into the folder that a hub repository holds. Runs in the trainer image.

    python convert.py MODEL.gguf OUTPUT_FOLDER

Writes safetensors weights in float16, the configuration and the tokenizer with its chat template.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The converted tokenizer has `<|im_start|>` as its end-of-sequence token, so the model would never
# stop.
END = "<|im_end|>"


def convert(source: Path, target: Path) -> None:
    """Write ``target``; it must not exist."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    tokenizer.eos_token = END
    tokenizer.pad_token = END
    model = AutoModelForCausalLM.from_pretrained(
        **place,
        quantization_config=GgufConfig(gguf_file=source.name, dequantize=True),
        dtype=torch.float16,
    )
    end = tokenizer.convert_tokens_to_ids(END)
    model.config.eos_token_id = end
    model.config.pad_token_id = end
    start = model.config.bos_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=start, eos_token_id=end, pad_token_id=end
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
