"""TRL's SFTTrainer, with what can be changed only in a subclass."""

from typing import Any

import torch
from trl.trainer.sft_trainer import SFTTrainer

from finetune_trainer.training.backends import TrainRequest, loraplus


class Trainer(SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer with LoRA+, a count of its tokens, and the adapter of a resume."""

    def __init__(self, *, request: TrainRequest, **stock: Any) -> None:
        """Create a trainer; ``stock`` are the arguments of TRL's own."""
        self.request = request
        self._tokens = torch.zeros((), dtype=torch.long)
        super().__init__(**stock)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the optimizer of the recipe, with the learning rates of LoRA+ if it sets them."""
        optimizer = super().create_optimizer(model)
        ratio = self.request.recipe.advanced.loraplus_lr_ratio
        if ratio is not None:
            loraplus.set_rates(optimizer, self.model.named_parameters(), ratio=ratio)
        return optimizer

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Do one forward and backward pass, and count its tokens.

        Unsloth replaces the method in which TRL counts them. The sum stays on the device until it
        is logged, because reading it waits for the GPU.
        """
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        tokens = ids.numel() if mask is None else mask.sum()
        self._tokens = self._tokens.to(ids.device) + tokens
        return super().training_step(model, inputs, num_items_in_batch)

    def take_token_count(self) -> int:
        """Return the number of tokens, without padding, since the last call."""
        count = int(self._tokens)
        self._tokens = torch.zeros_like(self._tokens)
        return count

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Keep the adapter: it was loaded before the run, in the types of the recipe."""
