"""One training in its own process: ``child.py (ours|trl|unsloth)[-float32] JOB WORK [CAP]``.

``ours`` is the trainer's command. ``trl`` and ``unsloth`` follow the libraries' documentation, with
equal settings on the same tokens; ``-float32`` keeps the adapter in float32, as ours is, instead of
TRL's bfloat16. Each prints a line per step, which is timed, and at the end the peak GPU memory.
CAP: usable GPU memory in bytes.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any


def main() -> int:
    """Train and return the exit code."""
    who, config, work, *cap = sys.argv[1:]
    if cap:
        _cap(int(cap[0]))
    code = _ours(config, work) if who == "ours" else _plain(who, Path(config), Path(work))
    _print_peak()
    return code


def _ours(config: str, work: str) -> int:
    from finetune_api.contracts.stage_request import TrainStageRequest
    from finetune_trainer.__main__ import main as trainer

    return trainer([TrainStageRequest(config=config, work=work).to_argument()])


def _plain(who: str, config: Path, work: Path) -> int:
    library, _, kept_in = who.partition("-")
    recipe = json.loads(config.read_text())["training"]
    print("importing", flush=True)
    if library == "unsloth":
        import unsloth  # noqa: F401
    import datasets
    import transformers
    from safetensors.numpy import load_file
    from trl import SFTConfig, SFTTrainer

    print("loading the base model", flush=True)
    model = _unsloth(work, recipe) if library == "unsloth" else _transformers(work, recipe)
    print("trainable parameters", flush=True)
    columns = _columns(load_file(work / "dataset" / "train.safetensors"))

    class Steps(transformers.TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in (logs or {}):
                print(f"step {state.global_step}/{state.max_steps} loss {logs['loss']}", flush=True)

    advanced = recipe["advanced"]
    micro = advanced["microBatchSize"] or _chosen_micro_batch(work)
    # On a CPU, Unsloth changes these.
    kept = {"optim": advanced["optimizer"], "bf16": True, "packing": "seq_lengths" in columns}
    arguments = SFTConfig(
        **kept,
        output_dir=str(work / "plain"),
        max_steps=recipe["maxSteps"],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=recipe["effectiveBatchSize"] // micro,
        learning_rate=recipe["learningRate"],
        lr_scheduler_type=advanced["lrSchedulerType"],
        warmup_steps=advanced["warmupRatio"],
        weight_decay=advanced["weightDecay"],
        max_grad_norm=advanced["maxGradNorm"],
        seed=recipe["seed"],
        gradient_checkpointing=advanced["gradientCheckpointing"],
        max_length=recipe["sequenceLength"],
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not _cuda(),
    )
    for name, value in kept.items():
        setattr(arguments, name, value)
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=transformers.AutoTokenizer.from_pretrained(work / "base"),
        callbacks=[Steps()],
    )
    if kept_in == "float32":
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    trainer.train()
    return 0


def _chosen_micro_batch(work: Path) -> int:
    """Return the micro-batch that ``prepare`` chose for the GPU model."""
    facts = json.loads((work / "dataset" / "manifest.json").read_text())["facts"]
    return int((facts.get("estimate") or {}).get("microBatch", 1))


def _columns(tokens: dict[str, Any]) -> dict[str, Any]:
    """Return the prepared sequences; packed ones with the lengths of their rows."""
    rows, sequences = tokens["rows"], tokens["sequences"]
    columns = {
        part: [tokens[part][a:b].tolist() for a, b in pairwise(rows[sequences])]
        for part in ("input_ids", "labels")
    }
    if len(sequences) < len(rows):
        lengths = rows[1:] - rows[:-1]
        columns["seq_lengths"] = [lengths[a:b].tolist() for a, b in pairwise(sequences)]
    return columns


def _transformers(work: Path, recipe: dict[str, Any]) -> Any:
    import peft
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = AutoModelForCausalLM.from_pretrained(
        work / "base",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        dtype=torch.bfloat16,
        attn_implementation="sdpa",
        device_map={"": 0 if _cuda() else "cpu"},
    )
    lora = recipe["lora"]
    return peft.get_peft_model(
        base,
        peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=lora["r"],
            lora_alpha=lora["alpha"],
            target_modules=lora["targetModules"],
        ),
    )


def _unsloth(work: Path, recipe: dict[str, Any]) -> Any:
    from unsloth import FastLanguageModel

    checkpointing = "unsloth" if recipe["advanced"]["gradientCheckpointing"] else False
    model, _ = FastLanguageModel.from_pretrained(
        str(work / "base"), max_seq_length=recipe["sequenceLength"], load_in_4bit=True
    )
    lora = recipe["lora"]
    return FastLanguageModel.get_peft_model(
        model,
        r=lora["r"],
        lora_alpha=lora["alpha"],
        target_modules=lora["targetModules"],
        use_gradient_checkpointing=checkpointing,
        random_state=recipe["seed"],
    )


def _cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _cap(bytes_: int) -> None:
    import torch

    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, bytes_ / whole))


def _print_peak() -> None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return
    free, whole = torch.cuda.mem_get_info()
    # Memory outside PyTorch's allocator: the CUDA context and other libraries.
    outside = whole - free - torch.cuda.memory_reserved()
    print(f"peak {outside + torch.cuda.max_memory_reserved()}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
