"""GPU memory of one QLoRA training step.

    peak = weights + adapter + optimizer + masks + kept activations
           + max(backward pass of one layer, of the loss) + context + fragmentation

Kept activations are the input of each layer (with gradient checkpointing), or all tensors that its
backward pass needs (without). The coefficients of each library are in ``backends``; ``python bench
estimate`` compares them with traced training steps. All sizes are bytes; ``tokens`` is the
micro-batch times the padded row length.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention.kernels import WITHOUT_MASK
from finetune_trainer.estimate.shape import Shape

GIB = 2**30
CONTEXT = int(0.6 * GIB)
"""CUDA context, cuBLAS and kernels: 0.5 to 0.7 GiB with current drivers."""
FRAGMENTATION = 1.05
"""Factor for fragmentation of the allocator, with expandable segments."""
STATES = {
    "adamw": (2, 8),
    "lion": (1, 4),
    "ademamix": (3, 12),
}
"""Optimizer → bytes of state per weight, in 8 bits and in 32 bits."""
HEAD_GRADIENT = 12
"""Bytes per weight of a trained head while the gradient of a chunk is added: weight and gradient in
16 bits, gradient in float32, and the sum over the chunks so far."""
EMBEDDING_GRADIENT = 4
"""Bytes per weight of a trained embedding while the gradient of a micro-batch is added."""
COMPUTE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes at the peak of a step, by part."""

    weights: int
    embeddings: int
    adapter: int
    optimizer: int
    activations: int
    masks: int
    loss: int
    overhead: int

    @property
    def tensors(self) -> int:
        """Sum of the parts that are tensors: without CUDA's context and fragmentation."""
        return self.total - self.overhead

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step. kernel: see ``attention.kernels``."""

    micro_batch: int
    length: int
    packed: bool
    kernel: str

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch."""
        return self.micro_batch * self.length

    @property
    def mask_elements(self) -> int:
        """Elements of the attention mask, 0 if none is built.

        Packed rows are one row of the mask. One unpacked row alone has no padding.
        """
        if self.kernel in WITHOUT_MASK:
            return 0
        if self.packed:
            return self.tokens**2
        return self.micro_batch * self.length**2 if self.micro_batch > 1 else 0


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Bytes of one layer: kept for its backward pass, and added at the peak of that pass."""

    kept: int
    backward: int


@dataclass(frozen=True, kw_only=True)
class BackendFormula:
    """The memory formula of a training library.

    ``layer(shape, recipe, step)`` returns the memory of one layer, ``head(shape, recipe, step)``
    the bytes of the loss and of the last norm. ``offloads`` is True if the inputs of layers are
    kept in host memory.
    """

    name: str
    layer: Callable[[Shape, Training, Step], Layer]
    head: Callable[[Shape, Training, Step], int]
    offloads: bool
    masks: bool = True
    """Whether attention masks are built where the kernel needs them."""
    embedding_bytes: int | None = None
    """Bytes per weight of embeddings, head and norms; None for the size of the compute dtype."""
    adapter_bytes: int = 4


def adapter_parameters(shape: Shape, recipe: Training) -> int:
    """Return the number of weights of the adapter."""
    targets = shape.targets(recipe.lora.target_modules).values()
    return shape.layers * recipe.lora.r * sum(inputs + outputs for inputs, outputs in targets)


def saved_parameters(shape: Shape, recipe: Training) -> int:
    """Return the number of weights of ``modulesToSave``, which are trained in full."""
    return len(set(recipe.lora.modules_to_save or ())) * shape.vocabulary * shape.hidden


def trained_parameters(shape: Shape, recipe: Training) -> int:
    """Return the number of all trained weights; they are float32."""
    return adapter_parameters(shape, recipe) + saved_parameters(shape, recipe)


def optimizer_bytes(shape: Shape, recipe: Training) -> float:
    """Return the bytes of the optimizer state.

    transformers keeps the state of an embedding in 32 bits also with an 8-bit optimizer.
    """
    name = recipe.advanced.optimizer
    eight, full = next(sizes for key, sizes in STATES.items() if key in name)
    # 8-bit states have one float32 scale for each block of 256 values.
    bytes_each = eight * (1 + 4 / 256) if "8bit" in name else full
    more = (full - bytes_each) * shape.vocabulary * shape.hidden
    embedding = "embed_tokens" in (recipe.lora.modules_to_save or ())
    return bytes_each * trained_parameters(shape, recipe) + (more if embedding else 0)


def training(shape: Shape, recipe: Training, formula: BackendFormula, step: Step) -> Memory:
    """Return the peak of a step."""
    advanced = recipe.advanced
    compute = COMPUTE_BYTES[advanced.quantization.compute_dtype]
    constants = 1 / 64 + 4 / 16384 if advanced.quantization.double_quant else 4 / 64
    trained = trained_parameters(shape, recipe)
    layer = formula.layer(shape, recipe, step)
    head = formula.head(shape, recipe, step)
    saved, table = recipe.lora.modules_to_save or (), shape.vocabulary * shape.hidden
    if "lm_head" in saved:
        head += HEAD_GRADIENT * table
    elif "embed_tokens" in saved:
        head = max(head, EMBEDDING_GRADIENT * table)
    # Masks have one byte per element. Each layer makes a copy in the compute type.
    elements = step.mask_elements if formula.masks else 0
    copy = elements * compute
    if advanced.gradient_checkpointing is not False:
        inputs = 0 if formula.offloads else shape.layers * shape.hidden * compute * step.tokens
        last = layer.kept + copy + layer.backward
    else:
        inputs = shape.layers * (layer.kept + copy)
        last = layer.backward
    # Gradients of the adapter appear while the kept activations are freed.
    gradients = trained * formula.adapter_bytes
    if shape.layers > 1:
        gradients = max(gradients - int(inputs * (1 - 1 / shape.layers)), 0)
    parts = {
        "weights": shape.linear_parameters * (0.5 + constants),
        "embeddings": shape.other_parameters * (formula.embedding_bytes or compute),
        "adapter": trained * formula.adapter_bytes + gradients,
        "optimizer": optimizer_bytes(shape, recipe),
        "activations": inputs + last,
        "masks": elements * shape.masks,
        "loss": max(0, head - last),
    }
    sizes = {name: int(size) for name, size in parts.items()}
    sizes["overhead"] = CONTEXT + int(sum(sizes.values()) * (FRAGMENTATION - 1))
    return Memory(**sizes)
