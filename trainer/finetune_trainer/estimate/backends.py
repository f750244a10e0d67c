"""The memory formula of each backend, for the versions in constraints/trainer.txt."""

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention.kernels import WITHOUT_MASK
from finetune_trainer.estimate.memory import COMPUTE_BYTES, BackendFormula, Layer, Step
from finetune_trainer.estimate.shape import (
    FUSED,
    NORMALIZED_HEADS,
    NORMALIZED_OUTPUTS,
    SCALED,
    Shape,
)

TRL_CHUNK = 256
"""Tokens per chunk of logits in TRL 1.14 (``sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE``)."""
UNSLOTH_CHUNK = 2**28
"""Least bytes of logits in Unsloth, whose chunks otherwise take half of the free memory."""
NORM_BACKWARD = 5
"""Float32 tensors of the hidden size in the backward pass of a norm of transformers."""
MULTIPROCESSORS = 144
"""Streaming multiprocessors of the largest card, for the workspace of deterministic attention."""
EAGER = "eager"
INPUTS = {
    "query": ("q_proj", "k_proj", "v_proj", "qkv_proj"),
    "output": ("o_proj",),
    "gate": ("gate_proj", "up_proj", "gate_up_proj"),
    "down": ("down_proj",),
}
"""Projections that share one input."""


def trl_layer(shape: Shape, recipe: Training, step: Step) -> Layer:
    """Return the memory of one layer of transformers with PEFT's adapter, in autocast."""
    wide = COMPUTE_BYTES[recipe.advanced.quantization.compute_dtype]
    norm = 4 * shape.hidden + 4
    inputs = _inputs(shape, recipe)
    mlp = 3 * wide * shape.intermediate + norm + inputs["gate"] + inputs["down"]
    attention = _attention(shape, recipe, step) + (shape.norms - 1) * norm + inputs["query"]
    attention += inputs["output"]
    if shape.family in NORMALIZED_HEADS:
        attention += 4 * (shape.query + shape.key)
    rank = wide * recipe.lora.r * len(shape.targets(recipe.lora.target_modules))
    # The backward pass of the MLP comes first, then its memory is free for that of the attention.
    allocated = max(
        _mlp_backward(shape, recipe, step),
        _attention_backward(shape, recipe, step) - mlp * step.tokens,
        _dora(shape, recipe),
    )
    return Layer(kept=(attention + mlp + rank) * step.tokens, backward=allocated)


def _attention(shape: Shape, recipe: Training, step: Step) -> int:
    """Return the bytes per token that attention keeps: queries, keys, values, output, sums."""
    wide = COMPUTE_BYTES[recipe.advanced.quantization.compute_dtype]
    keys = shape.key
    if step.kernel not in WITHOUT_MASK and (step.mask_elements or step.kernel == EAGER):
        # Keys and values are repeated for each query head.
        keys = shape.query
    kept = wide * (2 * shape.query + 2 * keys) + 4 * shape.heads
    if shape.family in FUSED:
        # Values are a copy of a part of the joint output.
        kept += wide * shape.key
    return kept + _scores(shape, step) * (4 + wide)


def _scores(shape: Shape, step: Step) -> int:
    """Return the attention scores per token that the eager kernel keeps in two types."""
    if step.kernel != EAGER:
        return 0
    return shape.heads * (step.tokens if step.packed else step.length)


def _attention_backward(shape: Shape, recipe: Training, step: Step) -> int:
    """Return the bytes that the backward pass of the attention adds."""
    wide = COMPUTE_BYTES[recipe.advanced.quantization.compute_dtype]
    if step.kernel == EAGER:
        # The gradients of scores and of probabilities in float32, after the 16-bit ones are freed.
        return (8 - wide) * _scores(shape, step) * step.tokens
    gradients = wide * (3 * shape.query + 2 * shape.key) * step.tokens
    return gradients + workspace(shape, recipe, step)


def _mlp_backward(shape: Shape, recipe: Training, step: Step) -> int:
    """Return the bytes that the backward pass of the MLP adds, or that of the norm after it."""
    wide = COMPUTE_BYTES[recipe.advanced.quantization.compute_dtype]
    part = wide * shape.intermediate * step.tokens
    # The gradients of the product and of one factor, and that of the other factor or the weight.
    allocated = 2 * part + max(part, wide * shape.largest_linear)
    if "down_proj" in shape.targets(recipe.lora.target_modules):
        # What the adapter kept of the product is freed before.
        allocated -= part
    if shape.family in SCALED:
        allocated += 2 * wide * shape.hidden * step.tokens
    if shape.family in FUSED:
        allocated += wide * (shape.query + shape.key) * step.tokens
    norm = 0
    if shape.family in NORMALIZED_OUTPUTS:
        norm = 4 * NORM_BACKWARD * shape.hidden * step.tokens
    return max(allocated + wide * shape.hidden * step.tokens, norm)


def _dora(shape: Shape, recipe: Training) -> int:
    """Return the bytes with which DoRA computes the norms of the largest adapted weight.

    PEFT multiplies the two matrices of the adapter with an identity matrix, in float32 and in the
    compute type, and adds the product to the dequantized weight.
    """
    targets = shape.targets(recipe.lora.target_modules)
    if not recipe.lora.use_dora or not targets:
        return 0
    wide = COMPUTE_BYTES[recipe.advanced.quantization.compute_dtype]
    largest = max(size for size, _ in targets.values())
    return (4 + wide) * largest**2 + 2 * wide * shape.largest_linear


def _inputs(shape: Shape, recipe: Training) -> dict[str, int]:
    """Return the bytes per token of the inputs that adapters keep, by the first projection."""
    wide = COMPUTE_BYTES[recipe.advanced.quantization.compute_dtype]
    targets = shape.targets(recipe.lora.target_modules)
    inputs = {}
    for name, members in INPUTS.items():
        sizes = [size for module, (size, _) in targets.items() if module in members]
        if recipe.lora.dropout:
            # Each projection has its own mask, of one byte per element on CUDA, and masked input.
            inputs[name] = (wide + 1) * sum(sizes)
        else:
            # The attention kernel keeps its output in any case.
            inputs[name] = 0 if name == "output" else wide * max(sizes, default=0)
        if recipe.lora.use_dora:
            # DoRA scales the outputs of base and adapter separately.
            outputs = [size for module, (_, size) in targets.items() if module in members]
            inputs[name] += 2 * wide * sum(outputs)
    return inputs


def workspace(shape: Shape, recipe: Training, step: Step) -> int:
    """Return the bytes that FlashAttention-2 allocates in its backward pass.

    These are the gradient of the queries in float32, the sums of each row, and the gradients of
    keys and values for each query head, if heads share them. Deterministic algorithms add up
    several gradients of the queries (csrc/flash_attn/flash_api.cpp, ``mha_varlen_bwd``).
    """
    copies = 1
    if recipe.deterministic:
        copies = -(-MULTIPROCESSORS // (shape.heads * step.micro_batch))
    per_token = 4 * shape.query * copies + 4 * shape.heads
    if shape.heads != shape.kv_heads:
        per_token += 2 * 2 * shape.query
    return per_token * step.tokens


def trl_head(shape: Shape, recipe: Training, step: Step) -> int:
    """Return the bytes of the last norm and of the loss, Liger's or TRL's chunked one.

    One chunk of TRL's has logits, log-softmax, probabilities and their product in float32, and
    capped logits in some families. All hidden states are kept in float32 before the norm, in 16
    bits after it, and sorted by mask.
    """
    wide = COMPUTE_BYTES[recipe.advanced.quantization.compute_dtype]
    copies = 5 if shape.capped_logits else 4
    chunk = 4 * copies * shape.vocabulary * min(TRL_CHUNK, step.tokens)
    if recipe.advanced.liger_fused_linear_cross_entropy:
        chunk = _liger_chunk(shape, step, wide)
    loss = chunk + (4 + 2 * wide) * shape.hidden * step.tokens
    norm = (4 * NORM_BACKWARD + wide) * shape.hidden * step.tokens
    return max(loss, norm)


def _liger_chunk(shape: Shape, step: Step, wide: int) -> int:
    """Return the bytes of the logits of one chunk in Liger's fused loss, which overwrites them.

    It divides the tokens so that these logits need about as much memory as the hidden states, and
    rounds their number up to a power of two (``ops/fused_linear_cross_entropy.py``, 0.8).
    """
    parts = -(-shape.vocabulary // shape.hidden)
    tokens = 1 << (-(-step.tokens // parts) - 1).bit_length()
    return wide * shape.vocabulary * min(tokens, step.tokens)


def unsloth_layer(shape: Shape, recipe: Training, step: Step) -> Layer:
    """Return the memory of one layer with Unsloth's fused kernels.

    Projections share their inputs, and the MLP keeps only gate and up; the backward pass adds their
    gradients and that of their product.
    """
    wide = COMPUTE_BYTES[recipe.advanced.quantization.compute_dtype]
    query, key = shape.query, shape.key
    kept = (
        shape.norms * shape.hidden + 2 * shape.hidden + 2 * (query + key) + 2 * shape.intermediate
    )
    allocated = 3 * shape.intermediate + 2 * shape.hidden
    dropped = 0
    if recipe.lora.dropout:
        dropped = sum(size for size, _ in shape.targets(recipe.lora.target_modules).values())
    return Layer(
        kept=(wide * kept + dropped) * step.tokens,
        backward=wide * allocated * step.tokens + 2 * shape.largest_linear,
    )


def unsloth_head(shape: Shape, recipe: Training, step: Step) -> int:
    """Return the bytes of Unsloth's chunked loss: hidden states, their gradient, one chunk."""
    chunk = min(UNSLOTH_CHUNK, 16 * shape.vocabulary * step.tokens)
    return 2 * 2 * shape.hidden * step.tokens + chunk


FORMULAS = {
    "trl": BackendFormula(name="trl", layer=trl_layer, head=trl_head, offloads=False),
    "unsloth": BackendFormula(
        name="unsloth", layer=unsloth_layer, head=unsloth_head, offloads=True, masks=False
    ),
}
EFFICIENCY = {"trl": 0.31, "unsloth": 0.48}
"""Backend → share of the GPU's dense 16-bit FLOP rate that training reaches.

From one published pair (Llama-2-7B, QLoRA r 8, 4 rows of 1,024 tokens on an A100: 2,415 and 3,726
tokens per second; wiki of LLaMA-Factory). On other GPUs it gives the order of magnitude only."""
