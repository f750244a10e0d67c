"""``spec.training`` of a FineTuneJob: the QLoRA recipe, with rarely used fields in ``advanced``."""

from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, between, equals, excludes, is_set
from finetune_api.v1alpha1.lora import Lora

Optimizer = Literal[
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adamw_8bit",
    "adamw_torch",
    "adamw_torch_fused",
    "paged_lion_8bit",
    "paged_lion_32bit",
    "lion_8bit",
    "lion_32bit",
    "paged_ademamix_8bit",
    "paged_ademamix_32bit",
    "ademamix_8bit",
    "ademamix",
]

Scheduler = Literal[
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
]


class Quantization(ApiModel):
    """4-bit quantization of the base model that the adapter is trained on."""

    type: Literal["nf4", "fp4"] = field("Data type of the 4-bit weights.", "nf4", edit=Edit.RETRAIN)
    double_quant: bool = field(
        "Quantize the quantization constants too, which saves 0.4 bits per weight.",
        True,
        edit=Edit.RETRAIN,
    )
    compute_dtype: Literal["bfloat16", "float16", "float32"] = field(
        "Data type of matrix multiplications.", "bfloat16", edit=Edit.RETRAIN
    )


class AdvancedTraining(ApiModel):
    """Settings that most jobs leave at their defaults."""

    backend: Literal["unsloth", "trl"] = field(
        "Training library. unsloth needs less memory and time on a GPU but must be built into the "
        "trainer image; trl is part of every image and supports all models of transformers.",
        "unsloth",
        edit=Edit.RETRAIN,
    )
    micro_batch_size: int | None = field(
        "Rows per forward pass; must divide effectiveBatchSize. A value that is set is never "
        "changed. The default is halved, with the same effective batch, if it does not fit the "
        "GPU's memory.",
        None,
        edit=Edit.RETRAIN,
        builtin="the largest value that is estimated to fit the GPU; on an unknown GPU 2, or 1 if "
        "effectiveBatchSize is odd",
        ge=1,
        le=1024,
    )
    attn_implementation: Literal["auto", "flash_attention_2", "sdpa", "eager"] = field(
        "Attention kernel. auto selects FlashAttention-2 if it is installed and supported by the "
        "GPU, and PyTorch's own kernel otherwise.",
        "auto",
        edit=Edit.RETRAIN,
    )
    gradient_checkpointing: bool = field(
        "Recompute activations in the backward pass instead of storing them.",
        True,
        edit=Edit.RETRAIN,
    )
    pad_to_sequence_length: bool = field(
        "Pad every batch to sequenceLength, which keeps memory use constant.",
        False,
        edit=Edit.RETRAIN,
    )
    overlong: Literal["drop", "truncate", "refuse"] = field(
        "Handling of rows longer than sequenceLength. drop removes and counts them, and fails if "
        "they exceed 5 % of the rows; truncate cuts off their end; refuse fails on the first one.",
        "drop",
        edit=Edit.RETRAIN,
    )
    optimizer: Optimizer = field(
        "Optimizer, by its Hugging Face name.", "paged_adamw_8bit", edit=Edit.RETRAIN
    )
    lr_scheduler_type: Scheduler = field(
        "Schedule of the learning rate after the warmup.", "cosine", edit=Edit.RETRAIN
    )
    warmup_ratio: float = field(
        "Fraction of the steps over which the learning rate rises from 0.",
        0.03,
        edit=Edit.RETRAIN,
        rules=(between(0, 0.5, "set warmupRatio to a value from 0 to 0.5, such as 0.03"),),
    )
    weight_decay: float = field("Weight decay.", 0.0, edit=Edit.RETRAIN, ge=0, le=1)
    max_grad_norm: float = field(
        "Maximum norm of the gradients; larger gradients are clipped.",
        1.0,
        edit=Edit.RETRAIN,
        gt=0,
        le=1000,
    )
    tf32: bool = field(
        "Use TensorFloat-32 for the remaining float32 operations on GPUs that support it.",
        True,
        edit=Edit.RETRAIN,
    )
    quantization: Quantization = field(
        "Quantization of the base model to 4 bits.", Quantization(), edit=Edit.RETRAIN
    )
    eval_steps: int | None = field(
        "Optimizer steps between evaluations.",
        None,
        edit=Edit.NEXT_REVISION,
        builtin="one epoch, if rows are held out",
        ge=1,
    )
    early_stopping_patience: int | None = field(
        "Consecutive evaluations without a lower held-out loss after which training stops. The "
        "adapter with the lowest loss is then kept; without early stopping it is that of the last "
        "step.",
        None,
        edit=Edit.RETRAIN,
        builtin="none; all steps are trained",
        ge=1,
        le=1000,
    )
    save_steps: int | None = field(
        "Optimizer steps between checkpoints.",
        None,
        edit=Edit.NEXT_REVISION,
        builtin="a tenth of all steps, at most 100",
        ge=1,
    )
    logging_steps: int = field(
        "Optimizer steps between reports of the loss.", 1, edit=Edit.NEXT_REVISION, ge=1
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        excludes(
            equals("attnImplementation", "flash_attention_2"),
            equals("quantization.computeDtype", "float32"),
            "FlashAttention-2 computes in 16 bits: set quantization.computeDtype: bfloat16, or "
            "attnImplementation: sdpa",
        ),
    )


def _indivisible(training: "Training") -> bool:
    micro = training.advanced.micro_batch_size
    return micro is not None and training.effective_batch_size % micro != 0


class Training(ApiModel):
    """The QLoRA recipe."""

    epochs: float | None = field(
        "Passes over the training rows. Excludes maxSteps.",
        3.0,
        edit=Edit.RETRAIN,
        builtin="3 if maxSteps is not set",
        gt=0,
        le=1000,
    )
    max_steps: int | None = field(
        "Optimizer steps to train. Excludes epochs.",
        None,
        edit=Edit.RETRAIN,
        builtin="derived from epochs",
        ge=1,
    )
    learning_rate: float = field("Peak learning rate.", 2e-4, edit=Edit.RETRAIN, gt=0, le=1)
    effective_batch_size: int = field(
        "Rows per optimizer step: the micro-batch size times the gradient accumulation steps.",
        8,
        edit=Edit.RETRAIN,
        ge=1,
        le=4096,
    )
    sequence_length: int = field(
        "Maximum length of a row in tokens.", 4096, edit=Edit.RETRAIN, ge=32, le=1_048_576
    )
    packing: Literal["auto", "always", "never"] = field(
        "Pack several short rows into one sequence, without attention between them. auto packs if "
        "at least 200 optimizer steps remain with packing.",
        "auto",
        edit=Edit.RETRAIN,
    )
    train_on: Literal["responses", "all"] | None = field(
        "Tokens that contribute to the loss: those of the responses, or all.",
        None,
        edit=Edit.RETRAIN,
        builtin="responses, or all for rows of format text",
    )
    lora: Lora = field("The adapter.", Lora(), edit=Edit.RETRAIN)
    seed: int = field(
        "Seed of initialization and shuffling.", 3407, edit=Edit.RETRAIN, ge=0, le=4294967295
    )
    deterministic: bool = field(
        "Use only algorithms that produce identical bits in every run on the same GPU model. "
        "Slower. Training on a CPU is always deterministic.",
        False,
        edit=Edit.RETRAIN,
    )
    advanced: AdvancedTraining = field(
        "Settings that most jobs leave at their defaults.", AdvancedTraining(), edit=Edit.RETRAIN
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        excludes(
            is_set("epochs"),
            is_set("maxSteps"),
            "epochs and maxSteps exclude each other: remove one of them",
        ),
        Rule(
            cel="!has(self.advanced) || !has(self.advanced.microBatchSize) || "
            "(has(self.effectiveBatchSize) ? self.effectiveBatchSize : 8) "
            "% self.advanced.microBatchSize == 0",
            message="advanced.microBatchSize must divide effectiveBatchSize (default 8): change "
            "one of them",
            fails=_indivisible,
        ),
    )
