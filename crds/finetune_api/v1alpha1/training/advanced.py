"""``spec.training.advanced`` of a FineTuneJob: fields that most jobs leave at their defaults."""

from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, between, equals, excludes, is_set, requires

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
        "Also quantize the quantization constants. This saves 0.4 bits per weight.",
        True,
        edit=Edit.RETRAIN,
    )
    compute_dtype: Literal["bfloat16", "float16", "float32"] = field(
        "Data type of the matrix multiplications.", "bfloat16", edit=Edit.RETRAIN
    )


class AdvancedTraining(ApiModel):
    """Settings that most jobs leave at their defaults."""

    backend: Literal["auto", "unsloth", "trl"] = field(
        'Training library. "unsloth" needs less time and GPU memory, but is not in every trainer '
        'image. "trl" is in every trainer image and supports every model family. "auto" selects '
        '"unsloth" if Unsloth is in the image and supports the model and the recipe; otherwise '
        '"trl". No new revision starts if you change "auto" to the selected library.',
        "auto",
        edit=Edit.RETRAIN,
    )
    micro_batch_size: int | None = field(
        "Number of rows per forward pass. This number must divide effectiveBatchSize. If the "
        "field is unset and training runs out of GPU memory, the trainer halves the default and "
        "keeps effectiveBatchSize.",
        None,
        edit=Edit.RETRAIN,
        builtin="the largest value that fits the GPU according to the estimate. If the GPU is "
        "unknown, the default is 2, or 1 if effectiveBatchSize is odd",
        ge=1,
        le=1024,
    )
    attn_implementation: Literal["auto", "flash_attention_2", "sdpa", "eager"] = field(
        'Attention kernel. With "auto", the trainer uses FlashAttention-2 if the GPU and the '
        'model support FlashAttention-2. Otherwise, it uses the "sdpa" kernel of PyTorch.',
        "auto",
        edit=Edit.RETRAIN,
    )
    gradient_checkpointing: bool | None = field(
        "Recompute activations in the backward pass instead of storing them. A change between "
        "unset and true starts no new revision.",
        None,
        edit=Edit.RETRAIN,
        builtin='false if, with the backend "trl", the activations of the same micro-batch fit the '
        "GPU according to the estimate; otherwise true",
        former=True,
    )
    pad_to_sequence_length: bool = field(
        "Pad every batch to sequenceLength, so that the use of GPU memory stays constant.",
        False,
        edit=Edit.RETRAIN,
    )
    overlong: Literal["drop", "truncate", "refuse"] = field(
        'Treatment of rows longer than sequenceLength. "drop": leave these rows out. "truncate": '
        "cut off the end of these rows; drop a row if all its tokens to train on are cut off. "
        '"refuse": fail the prepare stage. With "drop" or "truncate", the prepare stage fails if '
        "more than 5 % of the rows are dropped.",
        "drop",
        edit=Edit.RETRAIN,
    )
    optimizer: Optimizer = field(
        "Name of the optimizer in the transformers library.", "paged_adamw_8bit", edit=Edit.RETRAIN
    )
    lr_scheduler_type: Scheduler = field(
        "Schedule of the learning rate after the warmup.", "cosine", edit=Edit.RETRAIN
    )
    warmup_ratio: float = field(
        "Length of the warmup, as a fraction of the optimizer steps. During the warmup, the "
        "learning rate rises from 0 to its peak.",
        0.03,
        edit=Edit.RETRAIN,
        rules=(between(0, 0.5, "set warmupRatio to a value from 0 to 0.5, such as 0.03"),),
    )
    warmup_steps: int | None = field(
        "Length of the warmup in optimizer steps. If set, warmupRatio does not apply.",
        None,
        edit=Edit.RETRAIN,
        unset="the length of the warmup follows warmupRatio",
        ge=1,
    )
    min_learning_rate_ratio: float | None = field(
        "Learning rate at the end of the schedule, as a fraction of learningRate. It needs the "
        'schedule "cosine".',
        None,
        edit=Edit.RETRAIN,
        unset="the schedule ends at 0",
        gt=0,
        lt=1,
    )
    adam_beta1: float | None = field(
        "Decay rate of the optimizer's average of the gradients.",
        None,
        edit=Edit.RETRAIN,
        builtin="0.9",
        ge=0,
        lt=1,
    )
    adam_beta2: float | None = field(
        "Decay rate of the optimizer's average of the squared gradients.",
        None,
        edit=Edit.RETRAIN,
        builtin="0.999",
        ge=0,
        lt=1,
    )
    adam_epsilon: float | None = field(
        "Number that the AdamW optimizers add to the root of the squared gradients.",
        None,
        edit=Edit.RETRAIN,
        builtin="1e-8",
        gt=0,
        le=1,
    )
    weight_decay: float = field("Weight decay coefficient.", 0.0, edit=Edit.RETRAIN, ge=0, le=1)
    max_grad_norm: float = field(
        "Maximum norm of the gradients. Larger gradients are clipped.",
        1.0,
        edit=Edit.RETRAIN,
        gt=0,
        le=1000,
    )
    neftune_noise_alpha: float | None = field(
        "Scale of the random noise that NEFTune adds to the token embeddings in training. Typical "
        "values are 5 to 15. The noise is inversely proportional to the square root of the "
        "sequence length.",
        None,
        edit=Edit.RETRAIN,
        unset="no noise is added",
        gt=0,
        le=1000,
    )
    loraplus_lr_ratio: float | None = field(
        "Learning rate ratio of LoRA+. The learning rate of the adapter's B matrices is this value "
        "times learningRate. All other trained weights use learningRate. A typical value is 16. "
        "With 16, use half of the usual learningRate.",
        None,
        edit=Edit.RETRAIN,
        unset="learningRate applies to all trained weights",
        ge=1,
        le=1000,
    )
    liger_fused_linear_cross_entropy: bool = field(
        "Compute the output head and the loss with Liger's fused kernel. This kernel needs a "
        'GPU and the backend "trl". If this field is true, backend: auto selects "trl".',
        False,
        edit=Edit.RETRAIN,
    )
    liger_layers: bool | None = field(
        "Compute norms, rotary embeddings and gated MLPs with Liger's kernels, which do not store "
        'their intermediate results. They need a GPU and the backend "trl". If this field is true, '
        'backend: auto selects "trl".',
        None,
        edit=Edit.RETRAIN,
        unset="the layers of the transformers library compute them",
    )
    tf32: bool = field(
        "Use TensorFloat-32 for float32 matrix multiplications on GPUs that support it.",
        True,
        edit=Edit.RETRAIN,
    )
    quantization: Quantization = field(
        "Quantization of the base model to 4 bits during training.",
        Quantization(),
        edit=Edit.RETRAIN,
    )
    eval_steps: int | None = field(
        "Number of optimizer steps between evaluations on the held-out rows. Without held-out "
        "rows, the model is not evaluated.",
        None,
        edit=Edit.NEXT_REVISION,
        unset="the model is evaluated after each epoch",
        ge=1,
    )
    early_stopping_patience: int | None = field(
        "Training stops if the held-out loss reaches no new minimum in this number of consecutive "
        "evaluations. The trainer keeps the adapter with the lowest held-out loss.",
        None,
        edit=Edit.RETRAIN,
        unset="training runs all steps, and the last adapter is kept",
        ge=1,
        le=1000,
    )
    save_steps: int | None = field(
        "Number of optimizer steps between checkpoints.",
        None,
        edit=Edit.NEXT_REVISION,
        builtin="one tenth of all steps, but at most 100",
        ge=1,
    )
    logging_steps: int = field(
        "Number of optimizer steps between reports of the loss.", 1, edit=Edit.NEXT_REVISION, ge=1
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        requires(
            is_set("minLearningRateRatio"),
            equals("lrSchedulerType", "cosine") | ~is_set("lrSchedulerType"),
            "Only the schedule cosine ends at a minimum: set lrSchedulerType: cosine, or remove "
            "minLearningRateRatio",
        ),
        excludes(
            equals("ligerLayers", True),
            equals("backend", "unsloth"),
            "Unsloth has layers of its own: set backend: trl (or auto), or remove ligerLayers",
        ),
        excludes(
            equals("ligerFusedLinearCrossEntropy", True),
            equals("backend", "unsloth"),
            "Unsloth has a fused loss of its own: set backend: trl (or auto), or "
            "ligerFusedLinearCrossEntropy: false",
        ),
        excludes(
            equals("ligerFusedLinearCrossEntropy", True),
            equals("quantization.computeDtype", "float16"),
            "Liger computes gradients before the loss is scaled, so small gradients are lost in "
            "float16: set quantization.computeDtype: bfloat16, or ligerFusedLinearCrossEntropy: "
            "false",
        ),
        excludes(
            equals("attnImplementation", "flash_attention_2"),
            equals("quantization.computeDtype", "float32"),
            "FlashAttention-2 computes in 16 bits: set quantization.computeDtype: bfloat16, or "
            "attnImplementation: sdpa",
        ),
    )
