"""``spec.training``: the QLoRA recipe. Common fields first, the rest under ``advanced``."""

from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, Rule, between, field
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
    """The 4-bit base that the adapter is trained against."""

    type: Literal["nf4", "fp4"] = field(
        "Number format of the 4-bit weights.", "nf4", edit=Edit.RETRAIN
    )
    double_quant: bool = field(
        "Quantise the quantisation constants too: 0.4 bit a weight less.",
        True,
        edit=Edit.RETRAIN,
    )
    compute_dtype: Literal["bfloat16", "float16", "float32"] = field(
        "Number format that the matrix products are computed in.", "bfloat16", edit=Edit.RETRAIN
    )


class AdvancedTraining(ApiModel):
    """What most jobs leave alone."""

    backend: Literal["unsloth", "trl"] = field(
        "Library that trains. unsloth takes less memory and time on a GPU, and must be built into "
        "the trainer image; trl is in every image, and trains every family that transformers has.",
        "unsloth",
        edit=Edit.RETRAIN,
    )
    micro_batch_size: int | None = field(
        "Rows in one forward pass; it must divide effectiveBatchSize. A written value is never "
        "changed; where it is left out and does not fit the card it is halved, with the effective "
        "batch kept.",
        None,
        edit=Edit.RETRAIN,
        builtin="the largest that is estimated to fit the card; 2 on an unknown one, or 1 where "
        "the effective batch is odd",
        ge=1,
        le=1024,
    )
    attn_implementation: Literal["auto", "flash_attention_2", "sdpa", "eager"] = field(
        "Attention kernel; auto takes FlashAttention-2 where it is installed and the card "
        "supports it, PyTorch's own otherwise.",
        "auto",
        edit=Edit.RETRAIN,
    )
    gradient_checkpointing: bool = field(
        "Compute activations again in the backward pass instead of keeping them.",
        True,
        edit=Edit.RETRAIN,
    )
    pad_to_sequence_length: bool = field(
        "Pad every batch to sequenceLength, which keeps memory use constant.",
        False,
        edit=Edit.RETRAIN,
    )
    overlong: Literal["drop", "truncate", "refuse"] = field(
        "Rows longer than sequenceLength: dropped and counted (refused where they are more than "
        "5 %), cut at their end, or refused whatever their number.",
        "drop",
        edit=Edit.RETRAIN,
    )
    optimizer: Optimizer = field(
        "Optimizer, by its Hugging Face name.", "paged_adamw_8bit", edit=Edit.RETRAIN
    )
    lr_scheduler_type: Scheduler = field(
        "Course of the learning rate after the warm-up.", "cosine", edit=Edit.RETRAIN
    )
    warmup_ratio: float = field(
        "Share of the steps over which the learning rate rises from 0.",
        0.03,
        edit=Edit.RETRAIN,
        rules=(
            between(0, 0.5, "warmupRatio is a share of the steps: from 0 to 0.5, such as 0.03"),
        ),
    )
    weight_decay: float = field("Weight decay.", 0.0, edit=Edit.RETRAIN, ge=0, le=1)
    max_grad_norm: float = field(
        "Norm that gradients are clipped to.", 1.0, edit=Edit.RETRAIN, gt=0, le=1000
    )
    tf32: bool = field(
        "Use TensorFloat-32 for what is still computed in float32, on cards that have it.",
        True,
        edit=Edit.RETRAIN,
    )
    quantization: Quantization = field("The 4-bit base.", Quantization(), edit=Edit.RETRAIN)
    eval_steps: int | None = field(
        "Optimizer steps between evaluations.",
        None,
        edit=Edit.NOTHING,
        builtin="once an epoch, where rows are held out",
        ge=1,
    )
    early_stopping_patience: int | None = field(
        "Evaluations in a row without a lower loss on the held-out rows after which training "
        "ends. The adapter is then that of the lowest loss; otherwise it is the last step's.",
        None,
        edit=Edit.RETRAIN,
        builtin="none: all steps are trained",
        ge=1,
        le=1000,
    )
    save_steps: int | None = field(
        "Optimizer steps between checkpoints.",
        None,
        edit=Edit.NOTHING,
        builtin="a tenth of the run, at most 100",
        ge=1,
    )
    logging_steps: int = field(
        "Optimizer steps between reports of the loss.", 1, edit=Edit.NOTHING, ge=1
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.attnImplementation) || self.attnImplementation != 'flash_attention_2' "
            "|| !has(self.quantization) || !has(self.quantization.computeDtype) "
            "|| self.quantization.computeDtype != 'float32'",
            message="FlashAttention-2 computes in 16 bits: set quantization.computeDtype to "
            "bfloat16, or attnImplementation to sdpa",
            fails=lambda a: (
                a.attn_implementation == "flash_attention_2"
                and a.quantization.compute_dtype == "float32"
            ),
        ),
    )


def _indivisible(training: "Training") -> bool:
    micro = training.advanced.micro_batch_size
    return micro is not None and training.effective_batch_size % micro != 0


class Training(ApiModel):
    """The recipe."""

    epochs: float | None = field(
        "Passes over the rows. Leave it out where maxSteps is set.",
        3.0,
        edit=Edit.RETRAIN,
        builtin="3, where maxSteps is left out",
        gt=0,
        le=1000,
    )
    max_steps: int | None = field(
        "Optimizer steps to train, instead of epochs.",
        None,
        edit=Edit.RETRAIN,
        builtin="as many as the epochs need",
        ge=1,
    )
    learning_rate: float = field("Highest learning rate.", 2e-4, edit=Edit.RETRAIN, gt=0, le=1)
    effective_batch_size: int = field(
        "Rows that one optimizer step learns from: the micro-batch times the accumulation.",
        8,
        edit=Edit.RETRAIN,
        ge=1,
        le=4096,
    )
    sequence_length: int = field(
        "Longest row, in tokens.", 4096, edit=Edit.RETRAIN, ge=32, le=1_048_576
    )
    packing: Literal["auto", "always", "never"] = field(
        "Fill sequences with several short rows, kept apart from each other. auto packs where at "
        "least 200 optimizer steps remain with it.",
        "auto",
        edit=Edit.RETRAIN,
    )
    train_on: Literal["responses", "all"] | None = field(
        "Which tokens the loss is taken on: the responses, or all.",
        None,
        edit=Edit.RETRAIN,
        builtin="responses, and all for rows of format text",
    )
    lora: Lora = field("The adapter.", Lora(), edit=Edit.RETRAIN)
    seed: int = field(
        "Seed of initialisation and shuffling.", 3407, edit=Edit.RETRAIN, ge=0, le=4294967295
    )
    deterministic: bool = field(
        "Use only algorithms that give the same bits on every run on the same card: slower. A CPU "
        "always does.",
        False,
        edit=Edit.RETRAIN,
    )
    advanced: AdvancedTraining = field(
        "What most jobs leave alone.", AdvancedTraining(), edit=Edit.RETRAIN
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.epochs) || !has(self.maxSteps)",
            message="epochs and maxSteps exclude each other: remove one of them",
            fails=lambda t: (
                "epochs" in t.model_fields_set and t.epochs is not None and t.max_steps is not None
            ),
        ),
        Rule(
            cel="!has(self.advanced) || !has(self.advanced.microBatchSize) || "
            "(has(self.effectiveBatchSize) ? self.effectiveBatchSize : 8) "
            "% self.advanced.microBatchSize == 0",
            message="advanced.microBatchSize must divide effectiveBatchSize (built-in 8): "
            "change one of them",
            fails=_indivisible,
        ),
    )
