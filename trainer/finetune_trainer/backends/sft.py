"""One training with TRL's trainer, whichever library made the model: on CUDA and on a CPU."""

import gc
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from finetune_api.recipe import Training
from finetune_trainer import device as devices
from finetune_trainer import quantized
from finetune_trainer.adapter import WEIGHTS
from finetune_trainer.backends import Order, TooLarge, Trained, words
from finetune_trainer.device import Device
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.guards import Monitor, StepEnd
from finetune_trainer.manifest import fresh
from finetune_trainer.progress import log
from finetune_trainer.rendering import IGNORED
from finetune_trainer.tokenizers import load_tokenizer

DETERMINISTIC = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
    # Otherwise Unsloth sizes the pieces of its loss by the memory that happens to be free.
    "UNSLOTH_CE_LOSS_TARGET_GB": "1",
}
"""What the libraries read before they choose among algorithms."""
KEPT = (
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "seed",
    "bf16",
    "fp16",
    "packing",
)
"""Arguments that no library may change in silence."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """What makes the model. ``load``: the 4-bit base, for a device and an attention kernel."""

    load: Callable[[Order, Device, str], Any]
    adapt: Callable[[Order, Any], Any]
    """Gives that base a fresh adapter."""


def train(order: Order, monitor: Monitor, adapter: Path, library: Library) -> Trained:
    """Train, and save the adapter into ``adapter`` if all steps were done.

    Raises TooLarge where CUDA runs out of memory.
    """
    try:
        return _train(order, monitor, adapter, devices.detect(), library)
    except torch.OutOfMemoryError as error:
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        text = f"{peak / 2**30:.1f} GiB were allocated when it ran out"
        error.__traceback__ = None
    # Only now are the model and its activations unreachable.
    release_memory()
    raise TooLarge(text)


def release_memory() -> None:
    """Give back to the card what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _train(
    order: Order, monitor: Monitor, adapter: Path, device: Device, library: Library
) -> Trained:
    recipe = order.recipe
    devices.check(recipe, device)
    transformers.utils.logging.set_verbosity_error()
    transformers.set_seed(recipe.seed)
    _choose_algorithms(recipe)
    attention = devices.attention(recipe, device)
    log(
        f"loading the base in {recipe.advanced.quantization.type} on {device.name}, {attention}, "
        f"{order.rung}"
    )
    model = library.load(order, device, attention)
    quantized.require(model, recipe)
    recorded = quantized.record(model)
    model = library.adapt(order, model)
    trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
    log(f"{trainable / 1e6:.2f} M adapter weights on {len(recorded.digests)} quantised layers")
    trainer = _trainer(order, monitor, model, device)
    trainer.run()
    if trainer.complete:
        trainer.require_finite()
        _save_adapter(order, trainer, adapter)
    return Trained(
        step=trainer.state.global_step,
        complete=trainer.complete,
        quantized=recorded,
        attention=attention,
        device=device.name,
    )


def _choose_algorithms(recipe: Training) -> None:
    torch.use_deterministic_algorithms(recipe.deterministic)
    if recipe.deterministic:
        os.environ.update(DETERMINISTIC)
        log("deterministic algorithms only")


def _trainer(order: Order, monitor: Monitor, model: Any, device: Device) -> "Trainer":
    # TRL casts the adapter of a quantised base to bfloat16, which loses small updates: it is put
    # back to float32 as it was made.
    made = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    wanted = words.arguments(order, device)
    arguments = SFTConfig(**wanted)
    for name in KEPT:
        # On a CPU Unsloth replaces 8-bit optimizers, turns packing off, and avoids bfloat16.
        if getattr(arguments, name) != wanted[name]:
            log(
                f"{name} stays {wanted[name]}: the library would make it {getattr(arguments, name)}"
            )
            setattr(arguments, name, wanted[name])
    trainer = Trainer(
        order=order,
        monitor=monitor,
        model=model,
        args=arguments,
        processing_class=load_tokenizer(order.base),
        train_dataset=words.as_dataset(order.train, packed=order.packed),
    )
    for name, parameter in model.named_parameters():
        if name in made:
            parameter.data = made[name]
    for name in KEPT:
        if getattr(trainer.args, name) != wanted[name]:
            raise InvalidSpec(
                f"the backend would train with {name} {getattr(trainer.args, name)} instead of "
                f"{wanted[name]}: set training.advanced.backend to trl"
            )
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
        self.complete = False
        super().__init__(**stock)

    def run(self) -> None:
        """Train from the order's checkpoint, or from the beginning, to the end."""
        checkpoint = self.order.checkpoint
        step = checkpoint.step if checkpoint else 0
        self.monitor.begin(step)
        if checkpoint is not None:
            # A checkpoint is written before the evaluation of its step, which may be missing.
            self._load_from_checkpoint(str(checkpoint.path))
            self.state.global_step = step
            if not self._evaluated(step) or self._finished(step):
                return
        self.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # The stock method logs, and the report refuses a loss that is not finite: nothing is saved
        # after one. The checkpoint comes before the evaluation, which may take long.
        super()._maybe_log_save_evaluate(*args, **kwargs)
        asked, self.asked = self.asked, None
        if asked is not None:
            self._see_to(asked)
        self.monitor.step_over()

    def _see_to(self, asked: StepEnd) -> None:
        if asked.save:
            self.publish_checkpoint()
        step = self.state.global_step
        if asked.stop:
            return
        if not self._evaluated(step):
            if not asked.save:
                self.publish_checkpoint()
            self.control.should_training_stop = True
        elif self._finished(step):
            self.control.should_training_stop = True

    def _evaluated(self, step: int) -> bool:
        """Evaluate where it is due; False where a stop broke it off."""
        return not self.monitor.evaluation_due(step) or self.evaluate_tokens()

    def _finished(self, step: int) -> bool:
        exhausted = self.monitor.evaluations.exhausted
        self.complete = step >= self.order.max_steps or exhausted
        return self.complete

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

    def evaluate_tokens(self) -> bool:
        """Report the mean loss of a held-out token; False where a stop broke it off.

        Stock evaluation averages over batches, and counts a short row as much as a long one.
        """
        held_out = self.order.held_out
        if held_out is None:
            return True
        self.model.eval()
        total, count = 0.0, 0
        # A data loader draws a seed: without the fork, a run resumed from a checkpoint of before
        # the evaluation would go on with other random numbers than the run that was not.
        with torch.no_grad(), torch.random.fork_rng():
            for batch in self.get_eval_dataloader(words.as_dataset(held_out, packed=False)):
                if self.monitor.stop_requested:
                    self.model.train()
                    return False
                with self.accelerator.autocast():
                    loss = self.model(**batch).loss
                tokens = int((batch["labels"][:, 1:] != IGNORED).sum())
                total, count = total + float(loss) * tokens, count + tokens
        self.model.train()
        if count:
            self.monitor.evaluated(self.state.global_step, total / count)
        return True


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


def _save_adapter(order: Order, trainer: Trainer, folder: Path) -> None:
    model = trainer.model
    # PEFT writes the path that the base was loaded from; whoever loads the adapter has another.
    for each in model.peft_config.values():
        each.base_model_name_or_path, each.revision = order.source, order.commit
    model.save_pretrained(folder, save_embedding_layers=False)
    # PEFT's model card would name a path of this volume.
    (folder / "README.md").unlink(missing_ok=True)
    kept = trainer.monitor.evaluations.kept
    if kept is not None and kept.step != trainer.state.global_step:
        shutil.copyfile(order.checkpoint_of(kept.step) / WEIGHTS, folder / WEIGHTS)
