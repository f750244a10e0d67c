"""The seam between the trainer and the library that trains.

A backend gets tokens and labels, never text, and a ``Monitor`` that every report goes through; what
it hands back is an adapter in PEFT's format and what the merge has to know. Everything else
(checkpoints that can be trusted, budgets, stops, publishing) is common to all backends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_api.recipe import Training
from finetune_trainer.checkpoints import Checkpoint
from finetune_trainer.dataset import Tokens
from finetune_trainer.guards import Monitor
from finetune_trainer.quantized import Recorded


class TooLarge(Exception):
    """CUDA is out of memory; the text has the peak that was reached."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to train. ``checkpoints`` is the folder of scratch and published checkpoints."""

    base: Path
    source: str
    commit: str
    recipe: Training
    packed: bool
    train: Tokens
    held_out: Tokens | None
    max_steps: int
    micro_batch: int
    scratch: Path
    checkpoint: Checkpoint | None
    publish_checkpoint: Callable[[Path, int], None]
    """Takes a scratch folder and its step, and publishes it as a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of it. ``step`` is below the order's ``max_steps`` where it was stopped."""

    step: int
    quantized: Recorded
    """The 4-bit weights, as they were when the model was loaded."""
    attention: str
    device: str


class Backend(Protocol):
    """A library that trains QLoRA."""

    def versions(self) -> dict[str, str]:
        """Return the libraries that a checkpoint depends on."""
        ...

    def scales_loss(self, recipe: Training) -> bool:
        """Tell whether the loss is scaled, so that single steps may be skipped."""
        ...

    def train(self, order: Order, monitor: Monitor, adapter: Path) -> Trained:
        """Train, and save the adapter into ``adapter`` if all steps were done.

        Raises TooLarge where CUDA runs out of memory.
        """
        ...


def load(name: str) -> Backend:
    """Return a backend by its name in the API."""
    if name == "trl":
        from finetune_trainer.backends.trl import TrlBackend

        return TrlBackend()
    raise ValueError(f"no such backend: {name}")
