"""Linear layers that cannot have an adapter, or cannot be quantized, by ``model_type``.

The other linear layers of a model are quantized and, with ``all-linear``, adapted.
"""

from collections.abc import Iterable
from typing import Any

from finetune_trainer.errors import InvalidSpec

HEAD = "lm_head"
PLAIN = frozenset({"Linear", "Linear4bit"})
UNCALLED = dict.fromkeys(("falcon_mamba", "jamba", "mamba"), ("dt_proj",))
"""Layers that the model does not call: it multiplies by their weight itself. It would fail with
packed 4-bit weights, and ignore an adapter."""
REFUSED = dict.fromkeys(
    ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"), ("out_proj",)
)
"""Layers for which PEFT refuses an adapter, because kernels for Mamba use their weight directly."""
EXPERTS = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), ("gate", "w1", "w2", "w3")),
    **dict.fromkeys(
        (
            "afmoe",
            "cohere2_moe",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "dots1",
            "ernie4_5_moe",
            "exaone_moe",
            "flex_olmo",
            "glm4_moe",
            "glm4_moe_lite",
            "glm4v_moe",
            "glm_moe_dsa",
            "hunyuan_v1_moe",
            "longcat_flash",
            "mellum",
            "olmoe",
            "qwen3_moe",
            "qwen3_next",
            "qwen3_omni_moe",
            "qwen3_omni_moe_thinker",
            "solar_open",
        ),
        ("gate", "gate_proj", "up_proj", "down_proj"),
    ),
}
"""Names that PEFT takes for those of experts: it would adapt the parameters of all experts, which
are neither quantized nor merged, instead of layers."""


def use_plain_linear(family: str) -> None:
    """Replace the linear layers of Falcon by those of torch in this process.

    They compute the same, but transformers quantizes only layers whose class is exactly Linear.
    """
    if family == "falcon":
        import torch
        from transformers.models.falcon import modeling_falcon

        modeling_falcon.FalconLinear = torch.nn.Linear


def is_quantized(module: Any) -> bool:
    """Report whether transformers would quantize a module, unless it is named as an exception."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return type(module) is torch.nn.Linear or isinstance(module, Conv1D)


def not_quantized(family: str) -> list[str] | None:
    """Return the names of the linear layers that stay in 16 bits; None for the usual ones."""
    return [HEAD, *UNCALLED[family]] if family in UNCALLED else None


def quantized(model: Any) -> list[str]:
    """Return the names of the modules that transformers quantizes as it loads a model."""
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    without = HfQuantizer.get_modules_to_not_convert(
        model, not_quantized(model.config.model_type), model._keep_in_fp32_modules
    )
    return [
        name
        for name, module in model.named_modules()
        if is_quantized(module) and should_convert_module(name, without)
    ]


def not_adapted(family: str) -> frozenset[str]:
    """Return the names of the layers that cannot have an adapter, without their path."""
    return frozenset(
        name for table in (UNCALLED, REFUSED, EXPERTS) for name in table.get(family, ())
    )


def adapted(model: Any) -> list[str]:
    """Return the layers that get an adapter with ``all-linear``.

    Of the subclasses of Linear, only the quantized one computes the same; another may be a router.
    """
    without = not_adapted(model.config.model_type)
    return [
        name
        for name, module in _linear(model).items()
        if type(module).__name__ in PLAIN and _last(name) not in without
    ]


def are_all_adapted(model: Any) -> bool:
    """Report whether all linear layers can have an adapter, so that PEFT may choose them itself."""
    return not not_adapted(model.config.model_type) and len(adapted(model)) == len(_linear(model))


def _linear(model: Any) -> dict[str, Any]:
    """Return the linear layers of a model, without its head, by their names."""
    import torch

    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def check_targets(family: str, names: Iterable[str], *, source: str) -> None:
    """Raise InvalidSpec if ``training.lora.targetModules`` names layers without an adapter."""
    without = not_adapted(family)
    if wrong := [name for name in names if _last(name) in without]:
        raise InvalidSpec(
            f"training.lora.targetModules contains {', '.join(wrong)}, but layers of this name in "
            f"model {source} (family {family}) cannot have an adapter that can be merged: remove "
            "them from the list, or set it to all-linear, which leaves them out"
        )


def _last(name: str) -> str:
    return name.rpartition(".")[2]
