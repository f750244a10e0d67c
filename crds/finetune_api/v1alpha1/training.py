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
    """4-bit quantization of the base model during training."""

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
        'Training library: "unsloth" (needs less time and GPU memory, but must be built into the '
        'trainer image), or "trl" (part of every image; supports all transformers models).',
        "unsloth",
        edit=Edit.RETRAIN,
    )
    micro_batch_size: int | None = field(
        "Rows per forward pass; must divide effectiveBatchSize. A value that you set is never "
        "changed. If training with the default runs out of GPU memory, the default is halved and "
        "the effective batch size stays the same.",
        None,
        edit=Edit.RETRAIN,
        builtin="the largest value that fits the GPU according to the estimate; for an unknown "
        "GPU 2, or 1 if effectiveBatchSize is odd",
        ge=1,
        le=1024,
    )
    attn_implementation: Literal["auto", "flash_attention_2", "sdpa", "eager"] = field(
        'Attention kernel. With "auto", the trainer uses FlashAttention-2 if it is installed and '
        "the GPU supports it, and PyTorch's own kernel otherwise.",
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
        'Handling of rows longer than sequenceLength. "drop": they are dropped. "truncate": '
        'their end is cut off; a row with nothing left to train on is dropped. "refuse": '
        'preparation fails if there is such a row. With "drop" or "truncate", preparation fails '
        "if more than 5 % of the rows are dropped.",
        "drop",
        edit=Edit.RETRAIN,
    )
    optimizer: Optimizer = field(
        "Optimizer, by its Hugging Face name.", "paged_adamw_8bit", edit=Edit.RETRAIN
    )
    lr_scheduler_type: Scheduler = field(
        "Learning rate schedule after the warmup.", "cosine", edit=Edit.RETRAIN
    )
    warmup_ratio: float = field(
        "Fraction of the optimizer steps during which the learning rate rises from 0 to its peak.",
        0.03,
        edit=Edit.RETRAIN,
        rules=(between(0, 0.5, "set warmupRatio to a value from 0 to 0.5, such as 0.03"),),
    )
    weight_decay: float = field("Weight decay coefficient.", 0.0, edit=Edit.RETRAIN, ge=0, le=1)
    max_grad_norm: float = field(
        "Maximum norm of the gradients; larger gradients are clipped.",
        1.0,
        edit=Edit.RETRAIN,
        gt=0,
        le=1000,
    )
    tf32: bool = field(
        "Use TensorFloat-32 for float32 matrix multiplications on GPUs that support it.",
        True,
        edit=Edit.RETRAIN,
    )
    quantization: Quantization = field(
        "Quantization of the base model to 4 bits.", Quantization(), edit=Edit.RETRAIN
    )
    eval_steps: int | None = field(
        "Number of optimizer steps between evaluations on the held-out rows, if any.",
        None,
        edit=Edit.NEXT_REVISION,
        unset="the model is evaluated after each epoch",
        ge=1,
    )
    early_stopping_patience: int | None = field(
        "Training stops after this number of consecutive evaluations without a lower held-out "
        "loss, and the adapter with the lowest loss is kept.",
        None,
        edit=Edit.RETRAIN,
        unset="all steps are trained and the last adapter is kept",
        ge=1,
        le=1000,
    )
    save_steps: int | None = field(
        "Number of optimizer steps between checkpoints.",
        None,
        edit=Edit.NEXT_REVISION,
        builtin="a tenth of all steps, at most 100",
        ge=1,
    )
    logging_steps: int = field(
        "Number of optimizer steps between reports of the loss.", 1, edit=Edit.NEXT_REVISION, ge=1
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
        "Number of passes over the training rows. Mutually exclusive with maxSteps.",
        3.0,
        edit=Edit.RETRAIN,
        builtin="3 if maxSteps is unset",
        gt=0,
        le=1000,
    )
    max_steps: int | None = field(
        "Number of optimizer steps. Mutually exclusive with epochs.",
        None,
        edit=Edit.RETRAIN,
        builtin="calculated from epochs",
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
        'Pack several short rows into one sequence, without attention between them. With "auto", '
        "rows are packed if training then still takes at least 200 optimizer steps.",
        "auto",
        edit=Edit.RETRAIN,
    )
    train_on: Literal["responses", "all"] | None = field(
        'Tokens that contribute to the loss: only the tokens of the responses ("responses"), or '
        'all tokens ("all").',
        None,
        edit=Edit.RETRAIN,
        builtin='"all" if dataset.format is "text", otherwise "responses"',
    )
    lora: Lora = field("The LoRA adapter.", Lora(), edit=Edit.RETRAIN)
    seed: int = field(
        "Seed for initialization and shuffling.", 3407, edit=Edit.RETRAIN, ge=0, le=4294967295
    )
    deterministic: bool = field(
        "Use only algorithms that produce bit-identical results in every run on the same GPU "
        "model. Training is then slower. On a CPU, training is always deterministic.",
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
            "maxSteps and epochs are mutually exclusive: remove one of them",
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
