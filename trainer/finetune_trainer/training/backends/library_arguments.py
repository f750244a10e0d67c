"""A recipe in the words of the libraries that compute it: bitsandbytes, PEFT, TRL and datasets."""

from typing import Any

import peft
import torch
from transformers import BitsAndBytesConfig

from finetune_api.v1alpha1.training import Training
from finetune_trainer.data.token_store import Tokens
from finetune_trainer.runtime import capabilities
from finetune_trainer.runtime.device import Device
from finetune_trainer.training.backends import Order


def quantization_config(recipe: Training) -> BitsAndBytesConfig:
    """Return the 4-bit base of a recipe in bitsandbytes' words."""
    wanted = recipe.advanced.quantization
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=wanted.type,
        bnb_4bit_use_double_quant=wanted.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, wanted.compute_dtype),
    )


def lora_config(recipe: Training) -> peft.LoraConfig:
    """Return the adapter of a recipe in PEFT's words."""
    lora = recipe.lora
    everything = lora.target_modules == ["all-linear"]
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if everything else list(lora.target_modules),
        modules_to_save=None if lora.modules_to_save is None else list(lora.modules_to_save),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        bias="none",
    )


def arguments(order: Order, device: Device) -> dict[str, Any]:
    """Return a recipe in the words of TRL's SFTConfig."""
    recipe, advanced = order.recipe, order.recipe.advanced
    compute = advanced.quantization.compute_dtype
    return {
        "output_dir": str(order.scratch),
        "max_steps": order.max_steps,
        "per_device_train_batch_size": order.rung.micro_batch,
        "per_device_eval_batch_size": order.rung.micro_batch,
        "gradient_accumulation_steps": recipe.effective_batch_size // order.rung.micro_batch,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": advanced.lr_scheduler_type,
        # A share below 1 is taken as a ratio of all steps.
        "warmup_steps": advanced.warmup_ratio,
        "weight_decay": advanced.weight_decay,
        "max_grad_norm": advanced.max_grad_norm,
        "optim": advanced.optimizer,
        "seed": recipe.seed,
        "bf16": compute == "bfloat16",
        "fp16": capabilities.scales_loss(recipe, device),
        "gradient_checkpointing": advanced.gradient_checkpointing,
        "gradient_checkpointing_kwargs": (
            {"use_reentrant": False} if advanced.gradient_checkpointing else None
        ),
        "activation_offloading": order.rung.offload and device.cuda,
        "max_length": recipe.sequence_length,
        "packing": order.packed,
        "pad_to_multiple_of": (recipe.sequence_length if advanced.pad_to_sequence_length else None),
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "logging_steps": advanced.logging_steps,
        # A NaN must be seen: the filter would log a loss of 0 in its place.
        "logging_nan_inf_filter": False,
        "logging_first_step": True,
        "save_strategy": "no",
        "eval_strategy": "no",
        "use_cpu": not device.cuda,
        "dataloader_pin_memory": device.cuda,
        "disable_tqdm": True,
        "report_to": "none",
    }


def as_dataset(tokens: Tokens, *, packed: bool) -> Any:
    """Return tokens as a ``datasets`` table, without a copy of the ids as Python objects."""
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
