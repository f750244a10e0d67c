"""Host memory of the train pod.

Unsloth's gradient checkpointing keeps the inputs of the layers in host memory, in one pinned block
per layer. PyTorch rounds pinned blocks up to powers of two and keeps freed ones
(CachingHostAllocator). Unsloth keeps inputs in pageable memory, without rounding, once its pinned
blocks reach the limit that the trainer derives from the memory limit of the pod.
"""

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.estimate.backends import FORMULAS
from finetune_trainer.estimate.shape import Shape
from finetune_trainer.runtime.pod_limits import LIBRARIES


def needed(shape: Shape, recipe: Training, *, tokens: int, rows: int) -> int:
    """Return the bytes of the libraries, of the rows and of the inputs in rounded blocks.

    tokens: those of a micro-batch. rows: tokens of all rows, with labels and indices.
    """
    blocks = _layers(shape, recipe) * _rounded(_input(shape, tokens))
    return LIBRARIES + 16 * rows + blocks


def rounding(shape: Shape, recipe: Training, *, tokens: int) -> int:
    """Return the bytes by which the pinned blocks are larger than the inputs in them."""
    size = _input(shape, tokens)
    return _layers(shape, recipe) * (_rounded(size) - size)


def _layers(shape: Shape, recipe: Training) -> int:
    """Return the number of layers whose input is in host memory."""
    offloads = FORMULAS[recipe.advanced.backend].offloads
    return shape.layers if offloads and recipe.advanced.gradient_checkpointing is not False else 0


def _input(shape: Shape, tokens: int) -> int:
    return 2 * shape.hidden * tokens


def _rounded(size: int) -> int:
    return 1 << (size - 1).bit_length()
