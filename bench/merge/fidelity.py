"""Compare a merged model with the trained one: 4-bit base plus adapter."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.merge import timed
from finetune_trainer.volume_layout import Layout

ROWS, LENGTH = 4, 64


@dataclass(frozen=True, kw_only=True)
class Divergences:
    """Mean Kullback-Leibler divergence of the next token from the trained model, in nats."""

    original: float
    dequantized: float


def same(ours: Path, theirs: Path) -> bool:
    """Report whether two models have the same tensors: names, types and every bit."""
    import torch
    from safetensors import safe_open

    def where(folder: Path) -> dict[str, Any]:
        files: list[Any] = [safe_open(path, "pt") for path in folder.glob("*.safetensors")]
        return {name: file for file in files for name in file.keys()}  # noqa: SIM118

    left, right = where(ours), where(theirs)

    def alike(first: Any, second: Any) -> bool:
        # Compare bits, not values: -0.0 equals 0.0.
        bits = (tensor.view(-1).view(torch.uint8) for tensor in (first, second))
        return (first.dtype, first.shape) == (second.dtype, second.shape) and torch.equal(*bits)

    return left.keys() == right.keys() and all(
        alike(left[name].get_tensor(name), right[name].get_tensor(name)) for name in left
    )


def divergences(layout: Layout) -> Divergences:
    """Compare the builds ``original`` and ``dequantized`` of a volume on random tokens."""
    with tempfile.TemporaryDirectory() as folder:
        # Process the models one after another, so that only one float32 model is in memory.
        timed.run(_trained, layout, Path(folder, "trained"))
        by_base = {}
        for base in ("original", "dequantized"):
            timed.run(_merged, layout.merged(base), Path(folder, base))
            by_base[base] = _divergence(Path(folder, "trained"), Path(folder, base))
    return Divergences(**by_base)


def _trained(layout: Layout, target: Path) -> None:
    import peft
    import torch
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(
        layout.base,
        dtype=torch.bfloat16,
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Weights that are repacked for AVX512-BF16 would be computed in bfloat16.
            module.support_avx512bf16_for_cpu = False
        else:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
    _save_scores(peft.PeftModel.from_pretrained(base, layout.adapter), target)


def _merged(folder: Path, target: Path) -> None:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    _save_scores(model, target)


def _save_scores(model: Any, target: Path) -> None:
    import torch

    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, model.config.vocab_size, (ROWS, LENGTH), generator=generator)
    with torch.no_grad():
        scores = model.eval()(input_ids=ids).logits.float().log_softmax(-1)
    torch.save(scores, target)


def _divergence(reference: Path, merged: Path) -> float:
    import torch

    p, q = torch.load(reference).double(), torch.load(merged).double()
    return float((p.exp() * (p - q)).sum(-1).mean())
