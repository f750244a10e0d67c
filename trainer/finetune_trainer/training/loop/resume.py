"""Run a trainer from its checkpoint, as if it had never been interrupted."""

from pathlib import Path

import transformers
from peft.helpers import disable_input_dtype_casting
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from finetune_trainer.checkpointing.checkpoints import Checkpoint
from finetune_trainer.training.loop import checkpoint_folder
from finetune_trainer.training.loop.monitor_callback import MonitorCallback


def run(
    trainer: transformers.Trainer, callback: MonitorCallback, checkpoint: Checkpoint | None
) -> None:
    """Train to the end, from the checkpoint or from the first step.

    trainer: has the callback, and a ``_load_from_checkpoint`` that keeps the adapter as it is.
    """
    casts = trainer.args.bf16 or trainer.args.fp16
    # Autocast chooses the types. PEFT checks CUDA's autocast only: on a CPU it would copy the input
    # of every layer to float32, and autocast would round it back.
    with disable_input_dtype_casting(trainer.model, active=casts):
        callback.monitor.on_train_begin(checkpoint.step if checkpoint else 0)
        if checkpoint is None:
            trainer.train()
            return
        checkpoint_folder.load_adapter(trainer.model, checkpoint.path)
        trainer.state.global_step = checkpoint.step
        _restore_token_count(trainer, checkpoint.path)
        # A checkpoint precedes the evaluation of its step, which may therefore be missing.
        if not callback.ends_at(checkpoint.step):
            trainer.train(resume_from_checkpoint=str(checkpoint.path))


def _restore_token_count(trainer: transformers.Trainer, checkpoint: Path) -> None:
    """Restore the token count, which TRL resets; the log entry of a saved step contains it.

    Otherwise the history of a resumed run would differ from that of an uninterrupted run.
    """
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    trainer._total_train_tokens = int(state.log_history[-1].get("num_tokens", 0))
