"""Converts the training keys of Axolotl to ``spec.training``."""

import re
from typing import Any, get_args

from finetune_api.v1alpha1.lora import SavedModule
from finetune_api.v1alpha1.training import Optimizer, Scheduler
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
PROJECTIONS = re.compile(r"\(([a-z_|]+)\)(_proj)|([a-z_]+_proj[a-z_]*)")


def training(settings: Settings, *, held_out: bool) -> dict[str, Any]:
    """Return ``spec.training``. ``held_out`` is True if rows are held out for evaluation."""
    micro = int(settings.take("micro_batch_size", "batch_size") or 1)
    accumulation = int(settings.take("gradient_accumulation_steps") or 1)
    steps = settings.take("max_steps")
    epochs = settings.take("num_epochs") or 1
    result: dict[str, Any] = {"maxSteps": steps} if steps else {"epochs": epochs}
    result |= {
        "learningRate": float(settings.take("learning_rate") or 2e-4),
        "effectiveBatchSize": micro * accumulation,
        "sequenceLength": int(settings.take("sequence_len") or 512),
        "packing": "always" if settings.take("sample_packing") else "never",
    }
    if settings.take("train_on_inputs"):
        result["trainOn"] = "all"
    seed = settings.take("seed")
    result["seed"] = 42 if seed is None else seed
    result["lora"] = _lora(settings)
    result["advanced"] = {"microBatchSize": micro, **_advanced(settings, steps, held_out=held_out)}
    return result


def _lora(settings: Settings) -> dict[str, Any]:
    targets = settings.take("lora_target_modules")
    everything = settings.take("lora_target_linear") or targets == "all-linear"
    if isinstance(targets, str) and not everything:
        names = _projections(targets)
        settings.changed(
            "lora_target_modules",
            f"a job does not support patterns: it adapts all layers named {', '.join(names)}"
            if names
            else "a job does not support patterns: it adapts all linear layers",
        )
        targets = names
    if isinstance(targets, list):
        if "lm_head" in targets:
            settings.dropped("lora_target_modules", "a job trains no adapter on lm_head")
        targets = [name for name in targets if name != "lm_head"]
    lora: dict[str, Any] = {
        "r": int(settings.take("lora_r") or 8),
        "alpha": int(settings.take("lora_alpha") or 16),
        "dropout": float(settings.take("lora_dropout") or 0),
        "targetModules": targets if targets and not everything else ["all-linear"],
    }
    if saved := _saved(settings):
        lora["modulesToSave"] = saved
    for key, name in (("peft_use_rslora", "useRslora"), ("peft_use_dora", "useDora")):
        if settings.take(key):
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
    names = settings.take("lora_modules_to_save") or []
    offered = get_args(SavedModule)
    kept = [name for name in offered if name in names]
    if others := [name for name in names if name not in offered]:
        settings.dropped(
            "lora_modules_to_save",
            f"only {' and '.join(offered)} can be trained in full: the job does not train "
            f"{', '.join(others)}",
        )
    return kept


def _advanced(settings: Settings, steps: Any, *, held_out: bool) -> dict[str, Any]:
    found = {
        "gradientCheckpointing": _checkpointing(settings),
        "padToSequenceLength": bool(settings.take("pad_to_sequence_len")),
        "overlong": OVERLONG.get(str(settings.take("excess_length_strategy"))),
        "earlyStoppingPatience": _patience(settings, held_out=held_out),
        "optimizer": _optimizer(settings),
        "lrSchedulerType": _scheduler(settings),
        "warmupRatio": _warmup(settings, steps),
        "weightDecay": settings.take("weight_decay"),
        "maxGradNorm": settings.take("max_grad_norm"),
        "neftuneNoiseAlpha": settings.take("neftune_noise_alpha", "noisy_embedding_alpha") or None,
        "loraplusLrRatio": settings.take("loraplus_lr_ratio"),
        "ligerFusedLinearCrossEntropy": _liger(settings),
        "tf32": settings.take("tf32"),
        "attnImplementation": _attention(settings),
        "quantization": _quantization(settings),
        "evalSteps": _every(settings, "eval_steps", "evals_per_epoch") if held_out else None,
        "saveSteps": _every(settings, "save_steps", "saves_per_epoch"),
        "loggingSteps": settings.take("logging_steps"),
    }
    settings.take("eval_steps", "evals_per_epoch", "eval_strategy", "save_strategy")
    settings.take("evaluation_strategy", "save_total_limit")
    return {name: value for name, value in found.items() if value not in (None, {})}


def _liger(settings: Settings) -> bool | None:
    """Return whether Liger computes the loss. In Axolotl, its keys need its plugin."""
    on = settings.take(LIGER) and any(
        "liger" in str(each) for each in settings.take("plugins") or ()
    )
    head = "lm_head" in (settings.take("lora_modules_to_save") or ())
    if on and (head or settings.take("fp16") is True):
        reason = "float16" if not head else "a head that is trained in full"
        settings.equivalent(LIGER, f"the job does not use Liger's loss with {reason}")
        return None
    return True if on else None


def _patience(settings: Settings, *, held_out: bool) -> int | None:
    patience = settings.take("early_stopping_patience")
    if patience and not held_out:
        settings.dropped("early_stopping_patience", "needs held-out rows: set val_set_size")
    return int(patience) if patience and held_out else None


def _checkpointing(settings: Settings) -> bool:
    value = settings.take("gradient_checkpointing")
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
    name = str(settings.take("optimizer") or "adamw_torch_fused")
    name = SAME_OPTIMIZERS.get(name, name)
    if name in get_args(Optimizer):
        return name
    nearest = NEAREST_OPTIMIZERS.get(name)
    if nearest is None:
        settings.dropped("optimizer", "the job sets optimizer: adamw_torch_fused")
        return "adamw_torch_fused"
    settings.changed("optimizer", f"the job sets optimizer: {nearest}")
    return nearest


def _scheduler(settings: Settings) -> str:
    name = str(settings.take("lr_scheduler") or "cosine")
    if name in get_args(Scheduler):
        return name
    settings.dropped("lr_scheduler", "the job sets lrSchedulerType: cosine")
    return "cosine"


def _warmup(settings: Settings, steps: Any) -> float | None:
    ratio, count = settings.take("warmup_ratio"), settings.take("warmup_steps")
    if ratio is None and count is not None:
        if not steps:
            settings.changed(
                "warmup_steps",
                "is a number of steps, but warmupRatio is a fraction of all steps. The number of "
                "all steps is not known yet, so the job uses the default warmupRatio: 0.03",
            )
            return None
        ratio = round(float(count) / float(steps), 4)
    if ratio is not None and ratio > 0.5:
        settings.changed(
            "warmup_ratio", "exceeds the maximum of 0.5, so the job sets warmupRatio: 0.5"
        )
    return None if ratio is None else min(0.5, float(ratio))


def _attention(settings: Settings) -> str | None:
    """Return the kernel only if it is a particular one: all compute the same result."""
    written = settings.take("attn_implementation")
    for flag, name in {"sdp_attention": "sdpa", "eager_attention": "eager"}.items():
        if settings.take(flag):
            written = name
    if written in ("sdpa", "eager"):
        return str(written)
    if written not in (None, "flash_attention_2"):
        settings.equivalent("attn_implementation", "the job uses attnImplementation: auto")
    return None


def _quantization(settings: Settings) -> dict[str, Any]:
    found = settings.take("bnb_config_kwargs")
    kwargs = dict(found) if isinstance(found, dict) else {}
    result = {
        "type": kwargs.get("bnb_4bit_quant_type"),
        "doubleQuant": kwargs.get("bnb_4bit_use_double_quant"),
        "computeDtype": "float16" if settings.take("fp16") is True else None,
    }
    if settings.take("bf16") is False and result["computeDtype"] is None:
        result["computeDtype"] = "float32"
    settings.take("bfloat16", "float16")
    return {name: value for name, value in result.items() if value is not None}


def _every(settings: Settings, steps: str, times: str) -> int | None:
    value = settings.take(steps)
    if settings.take(times) is not None and value is None:
        settings.equivalent(
            times,
            "depends on the number of rows, so the job uses the default interval: to choose the "
            f"interval, set {steps}",
        )
    if isinstance(value, float) and value < 1:
        settings.equivalent(
            steps,
            "is a fraction of the run, so the job uses the default interval: to choose the "
            "interval, set a number of steps",
        )
        return None
    return None if not value else int(value)
