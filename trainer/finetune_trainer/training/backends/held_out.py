"""The mean loss per token on the held-out rows.

The stock evaluation averages over batches, so that short rows count as much as long ones.
"""

import torch
import transformers

from finetune_trainer.data.chat_rendering import IGNORED
from finetune_trainer.data.token_store import Tokens
from finetune_trainer.training.backends import library_arguments
from finetune_trainer.training.loop.monitor import Monitor


def evaluate(trainer: transformers.Trainer, rows: Tokens, monitor: Monitor, step: int) -> bool:
    """Report the loss after ``step``; return False if a stop interrupted the evaluation."""
    model = trainer.model
    # Otherwise Liger's forward method computes all logits in an evaluation.
    arguments = {"skip_logits": True} if trainer.args.use_liger_kernel else {}
    model.eval()
    total, count = 0.0, 0
    # A data loader draws a seed. Without the fork, a run that resumes before this evaluation and
    # one that resumes after it would continue with different random numbers.
    with torch.no_grad(), torch.random.fork_rng():
        for batch in trainer.get_eval_dataloader(library_arguments.as_dataset(rows, packed=False)):
            if monitor.stop_requested:
                model.train()
                return False
            with trainer.accelerator.autocast():
                loss = model(**batch, **arguments).loss
            tokens = int((batch["labels"][:, 1:] != IGNORED).sum())
            total, count = total + float(loss) * tokens, count + tokens
    model.train()
    if count:
        monitor.on_evaluate(step, total / count)
    return True
