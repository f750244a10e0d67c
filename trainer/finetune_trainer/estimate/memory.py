"""GPU memory of one QLoRA training step.

    peak = weights + adapter + kept activations + max(one layer, the head) + workspace + context

Kept activations are the input of each layer (with gradient checkpointing), or all tensors that its
backward pass needs (without). ``one layer`` is the memory in use during the backward pass of a
layer; its coefficients are counted tensor by tensor, and a test compares them with the tensors that
PyTorch saves. All sizes are bytes; ``tokens`` is the micro-batch times the padded row length.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from finetune_api.v1alpha1.training import Training
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
    loss: int
    overhead: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True, kw_only=True)
class BackendFormula:
    """The memory formula of a training library.

    ``layer(shape, recipe, length)`` returns bytes per token of the backward pass of one layer,
    ``head(shape, tokens)`` the bytes of the loss. ``offloads`` is True if the inputs of layers are
    kept in host memory.
    """

    name: str
    layer: Callable[[Shape, Training, int], int]
    head: Callable[[Shape, int], int]
    offloads: bool
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
    eight, full = next(each for key, each in STATES.items() if key in name)
    # 8-bit states have one float32 scale for each block of 256 values.
    each = eight * (1 + 4 / 256) if "8bit" in name else full
    more = (full - each) * shape.vocabulary * shape.hidden
    embedding = "embed_tokens" in (recipe.lora.modules_to_save or ())
    return each * trained_parameters(shape, recipe) + (more if embedding else 0)


def training(
    shape: Shape, recipe: Training, formula: BackendFormula, *, micro_batch: int, length: int
) -> Memory:
    """Return the peak of a step over ``micro_batch`` rows padded or packed to ``length``."""
    advanced = recipe.advanced
    tokens = micro_batch * length
    compute = COMPUTE_BYTES[advanced.quantization.compute_dtype]
    constants = 1 / 64 + 4 / 16384 if advanced.quantization.double_quant else 4 / 64
    trained = trained_parameters(shape, recipe)
    layer = formula.layer(shape, recipe, length) * tokens
    head = formula.head(shape, tokens)
    saved, table = recipe.lora.modules_to_save or (), shape.vocabulary * shape.hidden
    if "lm_head" in saved:
        head += HEAD_GRADIENT * table
    elif "embed_tokens" in saved:
        head = max(head, EMBEDDING_GRADIENT * table)
    if advanced.gradient_checkpointing:
        inputs = 0 if formula.offloads else shape.layers * shape.hidden * compute * tokens
        activations, loss = inputs + layer, max(0, head - layer)
    else:
        activations, loss = shape.layers * layer, head
    parts = {
        "weights": shape.linear_parameters * (0.5 + constants),
        "embeddings": shape.other_parameters * (formula.embedding_bytes or compute),
        "adapter": trained * (formula.adapter_bytes + formula.adapter_bytes),
        "optimizer": optimizer_bytes(shape, recipe),
        "activations": activations,
        "loss": loss,
        "overhead": shape.largest_linear * compute,
    }
    sizes = {name: int(size) for name, size in parts.items()}
    sizes["overhead"] += CONTEXT + int(sum(sizes.values()) * (FRAGMENTATION - 1))
    return Memory(**sizes)


def stock_layer(shape: Shape, recipe: Training, length: int) -> int:
    """Return the bytes per token that PyTorch, transformers and PEFT keep of one layer.

    With autocast, PEFT makes a 16-bit copy of the input of each adapted projection, because the
    weights of the adapter are float32 and the input is cast to float32 and back.
    """
    wide = COMPUTE_BYTES[recipe.advanced.quantization.compute_dtype]
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = shape.norms * (4 * shape.hidden + 4)
    attention = wide * (query + 2 * key + query) + 4 * shape.heads + 2 * wide * shape.head_dim
    if recipe.advanced.attn_implementation == "eager":
        attention += shape.heads * length * (4 + wide)
    gate = 3 * wide * shape.intermediate
    targets = shape.targets(recipe.lora.target_modules)
    inputs = sum(size for size, _ in targets.values())
    copies = wide * inputs + wide * recipe.lora.r * len(targets)
    if recipe.lora.dropout:
        # Dropout keeps its mask, with one byte per element on CUDA.
        copies += inputs
    if recipe.lora.use_dora:
        # DoRA scales the outputs of base and adapter separately.
        copies += 2 * wide * sum(outputs for _, outputs in targets.values())
    return norms + attention + gate + copies


def fused_layer(shape: Shape, recipe: Training, length: int) -> int:
    """Return the bytes per token of one layer with Unsloth's fused kernels, backward included.

    Projections share their inputs, and the MLP keeps only gate and up; the backward pass adds their
    gradients and that of their product.
    """
    wide = COMPUTE_BYTES[recipe.advanced.quantization.compute_dtype]
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    kept = (
        shape.norms * shape.hidden + 2 * shape.hidden + 2 * (query + key) + 2 * shape.intermediate
    )
    made = 3 * shape.intermediate + 2 * shape.hidden
    dropped = 0
    if recipe.lora.dropout:
        dropped = sum(size for size, _ in shape.targets(recipe.lora.target_modules).values())
    return wide * (kept + made) + dropped


def full_head(shape: Shape, tokens: int) -> int:
    """Return the bytes of a loss over all logits at once, as in most libraries before 2026.

    These are logits in 16 bits and float32, log-softmax, and both gradients.
    """
    return 16 * shape.vocabulary * tokens
