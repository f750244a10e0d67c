"""QLoRA with transformers, PEFT, TRL and bitsandbytes, by the same code on CUDA and on a CPU."""

import gc
import importlib.metadata
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from bitsandbytes.nn import Linear4bit
from transformers import (
    AutoModelForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from finetune_api.recipe import Training
from finetune_trainer import device as devices
from finetune_trainer import quantized
from finetune_trainer.backends import Order, TooLarge, Trained, words
from finetune_trainer.device import Device
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.guards import Monitor, StepEnd
from finetune_trainer.manifest import fresh
from finetune_trainer.progress import log
from finetune_trainer.rendering import IGNORED
from finetune_trainer.tokenizers import load_tokenizer

VERSIONS = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")


class TrlBackend:
    """The built-in backend."""

    def versions(self) -> dict[str, str]:
        """Return the libraries that a checkpoint depends on."""
        return {name: importlib.metadata.version(name) for name in VERSIONS}

    def scales_loss(self, recipe: Training) -> bool:
        """Tell whether float16 loss scaling is used."""
        return devices.trains_half(recipe, devices.detect())

    def train(self, order: Order, monitor: Monitor, adapter: Path) -> Trained:
        """Train, and save the adapter into ``adapter`` if all steps were done."""
        try:
            return _train(order, monitor, adapter, devices.detect())
        except torch.OutOfMemoryError as error:
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
            text = f"{peak / 2**30:.1f} GiB were allocated when it ran out"
            error.__traceback__ = None
        # Only now are the model and its activations unreachable.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise TooLarge(text)


def _train(order: Order, monitor: Monitor, adapter: Path, device: Device) -> Trained:
    recipe = order.recipe
    devices.check(recipe, device)
    transformers.utils.logging.set_verbosity_error()
    transformers.set_seed(recipe.seed)
    attention = devices.attention(recipe, device)
    log(f"loading the base in {recipe.advanced.quantization.type} on {device.name}, {attention}")
    model = _load(order, device, attention)
    recorded = quantized.record(model)
    model = peft.get_peft_model(model, words.lora_config(recipe))
    trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
    log(f"{trainable / 1e6:.2f} M adapter weights on {len(recorded.digests)} quantised layers")
    trainer = _trainer(order, monitor, model, device)
    checkpoint = order.checkpoint
    monitor.begin(checkpoint.step if checkpoint else 0)
    if checkpoint is not None and checkpoint.step >= order.max_steps:
        # Training was done when the process ended; asking for it again would add a step.
        trainer._load_from_checkpoint(str(checkpoint.path))
        trainer.state.global_step = checkpoint.step
        trainer.evaluate_tokens()
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    step = trainer.state.global_step
    if step >= order.max_steps:
        trainer.require_finite()
        _save_adapter(order, trainer.model, adapter)
    return Trained(step=step, quantized=recorded, attention=attention, device=device.name)


def _load(order: Order, device: Device, attention: str) -> Any:
    compute = getattr(torch, order.recipe.advanced.quantization.compute_dtype)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            order.base,
            output_loading_info=True,
            quantization_config=words.quantization_config(order.recipe),
            dtype=compute,
            attn_implementation=attention,
            device_map={"": 0 if device.cuda else "cpu"},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except ImportError as error:
        raise InvalidSpec(f"the base needs a library that this image lacks: {error}") from error
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report.get(problem):
            raise InvalidSpec(
                f"the base's weights do not fit its config.json ({problem}: "
                f"{sorted(map(str, report[problem]))[0]}): choose another revision of the model"
            )
    # With the key-value cache on, packed rows see each other where FlashAttention is not used.
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On CPUs with AVX512-BF16 an evaluation repacks the weights, and every backward pass
            # after it is wrong (measured: loss 3.876 instead of 3.705 at step 30).
            module.support_avx512bf16_for_cpu = False
    return model


def _trainer(order: Order, monitor: Monitor, model: Any, device: Device) -> "Trainer":
    # TRL casts the adapter of a quantised base to bfloat16, which loses small updates: it is put
    # back to float32 as it was made.
    made = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    trainer = Trainer(
        order=order,
        monitor=monitor,
        model=model,
        args=SFTConfig(**words.arguments(order, device)),
        processing_class=load_tokenizer(order.base),
        train_dataset=words.as_dataset(order.train, packed=order.packed),
    )
    for name, parameter in model.named_parameters():
        if name in made:
            parameter.data = made[name]
    # The tokenizer has done its part (padding); with it, every checkpoint would hold a copy.
    trainer.processing_class = None
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Reporter(trainer, monitor))
    return trainer


class Trainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with checkpoints that are published, and a resume that is bit-exact."""

    def __init__(self, *, order: Order, monitor: Monitor, **stock: Any) -> None:
        """Take what TRL's own trainer takes as ``stock``."""
        self.order = order
        self.monitor = monitor
        self.asked: StepEnd | None = None
        super().__init__(**stock)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # The stock method logs, and the report refuses a loss that is not finite: nothing is saved
        # after one. The checkpoint comes before the evaluation, which may take long.
        super()._maybe_log_save_evaluate(*args, **kwargs)
        asked, self.asked = self.asked, None
        if asked is not None and asked.save:
            self.publish_checkpoint()
        if asked is not None and asked.evaluate:
            self.evaluate_tokens()
        self.monitor.step_over()

    def publish_checkpoint(self) -> None:
        """Save everything a resume needs and publish it."""
        self.require_finite()
        step = self.state.global_step
        fresh(self.order.scratch)
        # Past TRL's own override, which writes a model card beside each checkpoint.
        super(SFTTrainer, self)._save_checkpoint(self.model, trial=None)
        saved = self.order.scratch / f"checkpoint-{step}"
        for unwanted in ("training_args.bin", "README.md"):
            (saved / unwanted).unlink(missing_ok=True)
        self.order.publish_checkpoint(saved, step)
        self.monitor.saved(step)

    def require_finite(self) -> None:
        """Refuse to save or publish an adapter with a weight that is not finite."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise self.monitor.weights_not_finite(self.state.global_step, name)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # PEFT chooses its own types when it loads; other types than before the crash would give
        # other roundings, and a resumed run would not equal an uninterrupted one.
        model = model or self.model
        types = {n: p.dtype for n, p in model.named_parameters() if p.requires_grad}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, parameter in model.named_parameters():
            if name in types:
                parameter.requires_grad_(True)
                parameter.data = parameter.data.to(types[name])

    def evaluate_tokens(self) -> None:
        """Report the mean loss of a held-out token: stock evaluation averages over batches."""
        held_out = self.order.held_out
        if held_out is None:
            return
        self.model.eval()
        total, count = 0.0, 0
        # A data loader draws a seed: without the fork, a run resumed from a checkpoint of before
        # the evaluation would go on with other random numbers than the run that was not.
        with torch.no_grad(), torch.random.fork_rng():
            for batch in self.get_eval_dataloader(words.as_dataset(held_out, packed=False)):
                if self.monitor.stop_requested:
                    break
                with self.accelerator.autocast():
                    loss = self.model(**batch).loss
                tokens = int((batch["labels"][:, 1:] != IGNORED).sum())
                total, count = total + float(loss) * tokens, count + tokens
        self.model.train()
        if count and not self.monitor.stop_requested:
            self.monitor.evaluated(self.state.global_step, total / count)


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Brings the trainer's events to the monitor."""

    def __init__(self, trainer: Trainer, monitor: Monitor) -> None:
        """Watch one trainer."""
        self._trainer = trainer
        self._monitor = monitor

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Report that a step's rows are there."""
        self._monitor.step_begin()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask what this step's end calls for; it is done once its loss was seen to be finite."""
        asked = self._monitor.step_end(state.global_step)
        self._trainer.asked = asked
        if asked.save or asked.evaluate:
            control.should_log = True
        if asked.stop:
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Report a loss; what Trainer logs at its very end has none."""
        if not logs or "loss" not in logs:
            return
        norm = logs.get("grad_norm")
        self._monitor.logged(
            state.global_step,
            loss=float(logs["loss"]),
            grad_norm=None if norm is None else float(norm),
            rate=logs.get("learning_rate"),
            epoch=state.epoch or 0.0,
            tokens=logs.get("num_tokens"),
        )


def _save_adapter(order: Order, model: Any, folder: Path) -> None:
    # PEFT writes the path that the base was loaded from; whoever loads the adapter has another.
    for each in model.peft_config.values():
        each.base_model_name_or_path, each.revision = order.source, order.commit
    model.save_pretrained(folder, save_embedding_layers=False)
    # PEFT's model card would name a path of this volume.
    (folder / "README.md").unlink(missing_ok=True)
