"""Translate a recipe into arguments of bitsandbytes, PEFT and TRL, and tokens into a dataset."""

from typing import Any

import peft
import torch
from transformers import BitsAndBytesConfig

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.compatibility import liger
from finetune_trainer.compatibility.backend_choice import UNSLOTH
from finetune_trainer.data.token_store import Tokens
from finetune_trainer.devices import capabilities
from finetune_trainer.devices.capabilities import Device
from finetune_trainer.models import special_layers
from finetune_trainer.training.backends import TrainRequest


def quantization_config(recipe: Training, family: str) -> BitsAndBytesConfig:
    """Return the recipe's quantization as transformers' BitsAndBytesConfig.

    family: ``model_type`` of the model; some leave layers in 16 bits.
    """
    quantization = recipe.advanced.quantization
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, quantization.compute_dtype),
        llm_int8_skip_modules=special_layers.not_quantized(family),
    )


def lora_config(recipe: Training, model: Any) -> peft.LoraConfig:
    """Return the recipe's adapter as PEFT's LoraConfig.

    model: the base; in some families, not all linear layers can have an adapter.
    """
    lora = recipe.lora
    targets: list[str] | str = list(lora.target_modules)
    if targets == ["all-linear"]:
        every = special_layers.are_all_adapted(model)
        targets = "all-linear" if every else special_layers.adapted(model)
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=None if lora.modules_to_save is None else list(lora.modules_to_save),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        bias="none",
    )


def sft_arguments(request: TrainRequest, device: Device) -> dict[str, Any]:
    """Return the arguments of TRL's SFTConfig."""
    recipe, advanced = request.recipe, request.recipe.advanced
    compute = advanced.quantization.compute_dtype
    recomputes = advanced.gradient_checkpointing is not False or request.memory.recompute
    return {
        "output_dir": str(request.scratch),
        "max_steps": request.max_steps,
        "per_device_train_batch_size": request.memory.micro_batch,
        "per_device_eval_batch_size": request.memory.micro_batch,
        "gradient_accumulation_steps": recipe.effective_batch_size // request.memory.micro_batch,
        "learning_rate": recipe.learning_rate,
        **_schedule(recipe),
        **_adam(recipe),
        "weight_decay": advanced.weight_decay,
        "max_grad_norm": advanced.max_grad_norm,
        "optim": advanced.optimizer,
        "seed": recipe.seed,
        "bf16": compute == "bfloat16",
        "fp16": capabilities.scales_loss(recipe, device),
        "gradient_checkpointing": recomputes,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if recomputes else None,
        "activation_offloading": request.memory.offload and device.cuda,
        "max_length": recipe.sequence_length,
        "packing": request.packed,
        # Unset, Unsloth reads every row in Python before it chooses a value.
        "padding_free": request.packed,
        "loss_type": _loss(recipe),
        "use_liger_kernel": advanced.liger_fused_linear_cross_entropy,
        "liger_kernel_config": (
            liger.kernels(recipe) if advanced.liger_fused_linear_cross_entropy else None
        ),
        "pad_to_multiple_of": (recipe.sequence_length if advanced.pad_to_sequence_length else None),
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "logging_steps": advanced.logging_steps,
        # The filter would log a NaN as a loss of 0, and hide it from the monitor.
        "logging_nan_inf_filter": False,
        "logging_first_step": True,
        "save_strategy": "no",
        "eval_strategy": "no",
        "use_cpu": not device.cuda,
        "dataloader_pin_memory": device.cuda,
        "disable_tqdm": True,
        "report_to": "none",
    }


def _schedule(recipe: Training) -> dict[str, Any]:
    """Return the arguments of the learning rate schedule.

    transformers takes a warmup below 1 as a ratio of all steps.
    """
    advanced = recipe.advanced
    steps, minimum = advanced.warmup_steps, advanced.min_learning_rate_ratio
    arguments: dict[str, Any] = {
        "lr_scheduler_type": advanced.lr_scheduler_type,
        "warmup_steps": advanced.warmup_ratio if steps is None else steps,
    }
    if minimum is not None:
        arguments["lr_scheduler_type"] = "cosine_with_min_lr"
        arguments["lr_scheduler_kwargs"] = {"min_lr_rate": minimum}
    return arguments


def _adam(recipe: Training) -> dict[str, float]:
    """Return the arguments of the optimizer that the recipe sets."""
    advanced = recipe.advanced
    values = {
        "adam_beta1": advanced.adam_beta1,
        "adam_beta2": advanced.adam_beta2,
        "adam_epsilon": advanced.adam_epsilon,
    }
    return {name: value for name, value in values.items() if value is not None}


def lacks_router_loss(config: Any) -> bool:
    """Report whether neither TRL nor transformers computes the loss of a model's routers.

    TRL needs the number of experts, which the configuration of Granite MoE calls otherwise, and the
    model returns no logits of its routers. QLoRA does not train them.
    """
    return hasattr(config, "output_router_logits") and not hasattr(config, "num_experts")


def _loss(recipe: Training) -> str:
    """Return TRL's name of the loss: the losses of Unsloth and Liger replace the plain one."""
    advanced = recipe.advanced
    replaced = advanced.backend == UNSLOTH or advanced.liger_fused_linear_cross_entropy
    return "nll" if replaced else "chunked_nll"


def as_dataset(tokens: Tokens, *, packed: bool) -> Any:
    """Return tokens as a ``datasets`` table, without copying the ids into Python objects."""
    import datasets
    import pyarrow as pa  # type: ignore[import-untyped]

    borders = tokens.rows[tokens.sequences]
    columns: dict[str, Any] = {
        "input_ids": pa.LargeListArray.from_arrays(borders, tokens.input_ids),
        "labels": pa.LargeListArray.from_arrays(borders, tokens.labels),
    }
    if packed:
        lengths = (tokens.rows[1:] - tokens.rows[:-1]).astype("int64")
        columns["seq_lengths"] = pa.LargeListArray.from_arrays(tokens.sequences, lengths)
    return datasets.Dataset(pa.table(columns))
