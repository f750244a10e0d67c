"""TRL's trainer with checkpoints that are published, and a resume that is bit-exact."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from trl.trainer.sft_trainer import SFTTrainer

from finetune_trainer.data.chat_rendering import IGNORED
from finetune_trainer.runtime.files import fresh
from finetune_trainer.training.backends import Order, library_arguments
from finetune_trainer.training.monitor import Monitor, StepEnd


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
        # Autocast chooses the types. PEFT asks for CUDA's alone, and on a CPU would make a float32
        # copy of every layer's input, which autocast then rounds back.
        with disable_input_dtype_casting(self.model, active=self.args.bf16 or self.args.fp16):
            self._run()

    def _run(self) -> None:
        checkpoint = self.order.checkpoint
        step = checkpoint.step if checkpoint else 0
        self.monitor.begin(step)
        if checkpoint is not None:
            # A checkpoint is written before the evaluation of its step, which may be missing.
            self._load_from_checkpoint(str(checkpoint.path))
            self.state.global_step = step
            self._count_on(checkpoint.path)
            if not self._evaluated(step) or self._finished(step):
                return
        self.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)

    def _count_on(self, checkpoint: Path) -> None:
        """Take over the count of tokens, which TRL begins anew; a step that is saved has logged it.

        Otherwise the history of a resumed run would not equal an uninterrupted one's.
        """
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self._total_train_tokens = int(state.log_history[-1].get("num_tokens", 0))

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
        with _saving_through_python():
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
            for batch in self.get_eval_dataloader(
                library_arguments.as_dataset(held_out, packed=False)
            ):
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


@contextmanager
def _saving_through_python() -> Iterator[None]:
    """Have torch write into Python's files: of a full disk its own say "unexpected pos 64 vs 0"."""
    usual = torch.save

    def save(what: Any, path: str) -> None:
        with open(path, "wb") as file:
            usual(what, file)

    torch.save = save
    try:
        yield
    finally:
        torch.save = usual


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
