"""Converts the training keys of Axolotl to ``spec.training``."""

import re
from typing import Any, get_args

from finetune_api.v1alpha1.training.advanced import Optimizer, Scheduler
from finetune_api.v1alpha1.training.lora import SavedModule
from finetune_cli.axolotl import evaluation
from finetune_cli.axolotl.reader import Settings

LIGER = "liger_fused_linear_cross_entropy"
OVERLONG = {"truncate": "truncate", "raise": "refuse"}
SAME_OPTIMIZERS = {"adamw_bnb_8bit": "adamw_8bit", "adamw_hf": "adamw_torch"}
NEAREST_OPTIMIZERS = {
    "adamw_torch_8bit": "adamw_8bit",
    "adamw_torch_4bit": "adamw_8bit",
    "ao_adamw_8bit": "adamw_8bit",
    "ao_adamw_4bit": "adamw_8bit",
    "ao_adamw_fp8": "adamw_8bit",
    "adamw_anyprecision": "adamw_torch",
    "adamw_apex_fused": "adamw_torch_fused",
    "lion_pytorch": "lion_32bit",
}
FSDP_CHECKPOINTING = ("activation_checkpointing", "fsdp_activation_checkpointing")
WARMUP, LONGEST_WARMUP = 0.03, 100
"""Axolotl's warmup if none is set: a fraction of all steps, and its maximum in steps."""
ADAM = {
    "adamBeta1": ("adam_beta1",),
    "adamBeta2": ("adam_beta2",),
    "adamEpsilon": ("adam_epsilon", "adam_eps"),
}
"""Constants of the optimizer, and their names in Axolotl."""
PROJECTIONS = re.compile(r"\(([a-z_|]+)\)(_proj)|([a-z_]+_proj[a-z_]*)")


def training(settings: Settings, *, held_out: bool) -> dict[str, Any]:
    """Return ``spec.training``. ``held_out`` is True if rows are held out for evaluation."""
    micro, batch = _batch(settings)
    steps = settings.integer("max_steps")
    epochs = settings.number("num_epochs") or 1
    scheduled = steps is not None and steps > 0
    result: dict[str, Any] = {"maxSteps": steps} if scheduled else {"epochs": _plain(epochs)}
    result |= {
        "learningRate": settings.number("learning_rate") or 2e-4,
        "effectiveBatchSize": batch,
        "sequenceLength": settings.integer("sequence_len") or 512,
        "packing": "always" if settings.flag("sample_packing") else "never",
    }
    if settings.flag("train_on_inputs"):
        result["trainOn"] = "all"
    seed = settings.integer("seed")
    result["seed"] = 42 if seed is None else seed
    result["lora"] = _lora(settings)
    advanced = _advanced(settings, steps=steps if scheduled else None)
    result["advanced"] = {
        "microBatchSize": micro,
        **advanced,
        **evaluation.intervals(settings, epochs=epochs, held_out=held_out),
    }
    return result


def _batch(settings: Settings) -> tuple[int, int]:
    """Return the micro-batch and the effective batch."""
    micro = settings.integer("micro_batch_size") or 1
    batch = micro * (settings.integer("gradient_accumulation_steps") or 1)
    total = settings.integer("batch_size")
    if total is not None and total != batch:
        settings.changed(
            "batch_size",
            f"the effective batch is micro_batch_size × gradient_accumulation_steps = {batch}, as "
            "in Axolotl. To use another one, set training.effectiveBatchSize",
        )
    return micro, batch


def _plain(value: float) -> float:
    """Return an integer as such, so that the manifest does not contain ``3.0``."""
    return int(value) if value == int(value) else value


def _lora(settings: Settings) -> dict[str, Any]:
    targets = settings.take("lora_target_modules")
    everything = settings.flag("lora_target_linear") or targets == "all-linear"
    if isinstance(targets, str) and not everything:
        names = _projections(targets)
        settings.changed(
            "lora_target_modules",
            f"a job does not support patterns: it adapts all layers named {', '.join(names)}"
            if names
            else "a job does not support patterns: it adapts all linear layers",
        )
        targets = names
    elif not everything:
        targets = settings.list_of_names("lora_target_modules")
        if "lm_head" in targets:
            settings.dropped("lora_target_modules", "a job trains no adapter on lm_head")
        targets = [name for name in targets if name != "lm_head"]
    lora: dict[str, Any] = {
        "r": settings.integer("lora_r") or 8,
        "alpha": settings.integer("lora_alpha") or 16,
        "dropout": settings.number("lora_dropout") or 0.0,
        "targetModules": targets if targets and not everything else ["all-linear"],
    }
    if saved := _saved(settings):
        lora["modulesToSave"] = saved
    for key, name in (("peft_use_rslora", "useRslora"), ("peft_use_dora", "useDora")):
        if settings.flag(key):
            lora[name] = True
    return lora


def _projections(pattern: str) -> list[str]:
    """Return the names of the projections in a pattern, such as ``(q|k)_proj``."""
    names: list[str] = []
    for group, suffix, single in PROJECTIONS.findall(pattern):
        parts = [f"{part}{suffix}" for part in group.split("|")] if group else [single]
        names += [part for part in parts if "_proj" in part]
    return list(dict.fromkeys(names))


def _saved(settings: Settings) -> list[str]:
    names = settings.list_of_names("lora_modules_to_save")
    offered = get_args(SavedModule)
    kept = [name for name in offered if name in names]
    if others := [name for name in names if name not in offered]:
        settings.dropped(
            "lora_modules_to_save",
            f"only {' and '.join(offered)} can be trained in full: the job does not train "
            f"{', '.join(others)}",
        )
    return kept


def _advanced(settings: Settings, *, steps: int | None) -> dict[str, Any]:
    fields = {
        "gradientCheckpointing": _checkpointing(settings),
        "padToSequenceLength": bool(settings.flag("pad_to_sequence_len")),
        "overlong": OVERLONG.get(settings.text("excess_length_strategy") or ""),
        "optimizer": _optimizer(settings),
        **_schedule(settings),
        **_warmup(settings, steps),
        **{name: settings.number(*keys) for name, keys in ADAM.items()},
        "weightDecay": settings.number("weight_decay"),
        "maxGradNorm": settings.number("max_grad_norm"),
        "neftuneNoiseAlpha": settings.number("neftune_noise_alpha", "noisy_embedding_alpha")
        or None,
        "loraplusLrRatio": settings.number("loraplus_lr_ratio"),
        "ligerFusedLinearCrossEntropy": _liger(settings),
        "tf32": settings.flag("tf32"),
        "attnImplementation": _attention(settings),
        "quantization": _quantization(settings),
        "loggingSteps": settings.integer("logging_steps"),
    }
    return {name: value for name, value in fields.items() if value not in (None, {})}


def _liger(settings: Settings) -> bool | None:
    """Return whether Liger computes the loss. In Axolotl, its keys need its plugin."""
    on = settings.flag(LIGER) and any(
        "liger" in plugin for plugin in settings.list_of_names("plugins")
    )
    head = "lm_head" in settings.list_of_names("lora_modules_to_save")
    if on and (head or settings.flag("fp16")):
        reason = "float16" if not head else "a head that is trained in full"
        settings.equivalent(LIGER, f"the job does not use Liger's loss with {reason}")
        return None
    return True if on else None


def _checkpointing(settings: Settings) -> bool:
    value = settings.take("gradient_checkpointing")
    sharded = settings.peek("fsdp_config")
    if not value and isinstance(sharded, dict) and any(map(sharded.get, FSDP_CHECKPOINTING)):
        return True
    if value is None:
        settings.equivalent(
            "gradient_checkpointing",
            "is not set, and Axolotl's default is off. The job therefore sets "
            "gradientCheckpointing: false, and the activations of all layers stay in GPU memory. "
            "To save memory, set gradientCheckpointing: true in the job",
        )
    elif isinstance(value, str):
        settings.equivalent(
            "gradient_checkpointing",
            "the job sets gradientCheckpointing: true; the backend decides whether to offload the "
            "activations",
        )
    return bool(value)


def _optimizer(settings: Settings) -> str:
    name = settings.text("optimizer") or "adamw_torch_fused"
    name = SAME_OPTIMIZERS.get(name, name)
    if name in get_args(Optimizer):
        return name
    nearest = NEAREST_OPTIMIZERS.get(name)
    if nearest is None:
        settings.dropped("optimizer", "the job sets optimizer: adamw_torch_fused")
        return "adamw_torch_fused"
    settings.changed("optimizer", f"the job sets optimizer: {nearest}")
    return nearest


def _schedule(settings: Settings) -> dict[str, Any]:
    name = settings.text("lr_scheduler") or "cosine"
    if name not in get_args(Scheduler):
        settings.dropped("lr_scheduler", "the job sets lrSchedulerType: cosine")
        name = "cosine"
    minimum = settings.number("cosine_min_lr_ratio") if name == "cosine" else None
    return {"lrSchedulerType": name, "minLearningRateRatio": minimum or None}


def _warmup(settings: Settings, steps: int | None) -> dict[str, Any]:
    ratio, count = settings.number("warmup_ratio"), settings.number("warmup_steps")
    key = "warmup_steps" if ratio is None and count is not None else "warmup_ratio"
    if ratio is None and count is not None:
        if count >= 1:
            return {"warmupSteps": int(count)}
        # transformers reads such a number as a fraction of all steps.
        ratio = count
    if ratio is None and steps:
        ratio = round(min(int(WARMUP * steps), LONGEST_WARMUP) / steps, 4)
    if ratio is None:
        settings.changed(
            key,
            "is not set: the warmup takes 3 % of all steps, as in Axolotl, but there it is never "
            f"longer than {LONGEST_WARMUP} steps",
        )
        return {}
    if ratio > 0.5:
        settings.changed(key, "exceeds half of all steps, so the job sets warmupRatio: 0.5")
    return {"warmupRatio": min(0.5, ratio)}


def _attention(settings: Settings) -> str | None:
    """Return the kernel only if it is a particular one: all compute the same result."""
    written = settings.text("attn_implementation")
    for flag, name in {"sdp_attention": "sdpa", "eager_attention": "eager"}.items():
        if settings.flag(flag):
            written = name
    if written in ("sdpa", "eager"):
        return written
    if written not in (None, "flash_attention_2"):
        settings.equivalent("attn_implementation", "the job uses attnImplementation: auto")
    return None


def _quantization(settings: Settings) -> dict[str, Any]:
    kwargs = settings.mapping("bnb_config_kwargs")
    half = settings.flag("fp16")
    result = {
        "type": kwargs.get("bnb_4bit_quant_type"),
        "doubleQuant": kwargs.get("bnb_4bit_use_double_quant"),
        "computeDtype": "float16" if half else None,
    }
    if settings.flag("bf16") is False and not half:
        result["computeDtype"] = "float32"
    settings.take("bfloat16", "float16")
    return {name: value for name, value in result.items() if value is not None}
