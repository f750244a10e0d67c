"""``spec.training``: the QLoRA recipe. Common fields first, the rest under ``advanced``."""

import re
from typing import ClassVar, Literal

from pydantic import field_validator

from finetune_api.markers import ApiModel, Edit, Rule, between, field, no_twice

LAYER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

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


SavedModule = Literal["embed_tokens", "lm_head"]
"""Modules that can be trained in full: what no linear layer's adapter can take the place of."""


def _place(name: str) -> tuple[int, str]:
    return (ALL_LINEAR.index(name) if name in ALL_LINEAR else len(ALL_LINEAR), name)


class Lora(ApiModel):
    """The adapter, in PEFT's words."""

    r: int = field("Rank of the adapter.", 16, edit=Edit.RETRAIN, ge=1, le=512)
    alpha: int = field(
        "Scale of the adapter: its product is multiplied by alpha / r (alpha / sqrt(r) with "
        "rank-stabilised LoRA).",
        32,
        edit=Edit.RETRAIN,
        ge=1,
        le=4096,
    )
    dropout: float = field(
        "Dropout on the adapter's input. Above 0 it costs about two thirds more activation "
        "memory in each layer.",
        0.0,
        edit=Edit.RETRAIN,
        ge=0,
        lt=1,
    )
    target_modules: list[str] = field(
        "Linear layers that get an adapter, by the end of their name, or all-linear alone for "
        "every linear layer but the head.",
        ALL_LINEAR,
        edit=Edit.RETRAIN,
        min_length=1,
        max_length=32,
        rules=(
            no_twice("targetModules"),
            Rule(
                cel="!('all-linear' in self) || size(self) == 1",
                message="all-linear stands alone in targetModules: remove the other names",
                fails=lambda names: "all-linear" in names and len(names) > 1,
            ),
            Rule(
                cel="self.all(name, name.matches('^[A-Za-z0-9_.-]{1,128}$'))",
                message="targetModules takes names of layers, such as q_proj, or all-linear",
                fails=lambda names: not all(LAYER_NAME.fullmatch(name) for name in names),
            ),
            Rule(
                cel="!('lm_head' in self)",
                message="an adapter on lm_head would never be trained: remove it from "
                "targetModules; modulesToSave trains the head itself",
                fails=lambda names: "lm_head" in names,
            ),
            Rule(
                cel="!('embed_tokens' in self)",
                message="an adapter on embed_tokens cannot be merged: remove it from "
                "targetModules; modulesToSave trains the embedding itself",
                fails=lambda names: "embed_tokens" in names,
            ),
        ),
    )
    modules_to_save: list[SavedModule] | None = field(
        "Token embedding and head that are trained in full, beside the adapter, for words that the "
        "base hardly knows. Each takes as much memory as a base of its size in float32 with "
        "gradients and optimizer states. Not for bases whose head is their embedding.",
        None,
        edit=Edit.RETRAIN,
        builtin="none",
        min_length=1,
        max_length=2,
        rules=(no_twice("modulesToSave"),),
    )
    use_rslora: bool = field("Rank-stabilised LoRA.", False, edit=Edit.RETRAIN)
    use_dora: bool = field(
        "Weight-decomposed LoRA (DoRA): better at low ranks, slower to train.",
        False,
        edit=Edit.RETRAIN,
    )

    @field_validator("target_modules", "modules_to_save")
    @classmethod
    def _in_one_order(cls, names: list[str] | None) -> list[str] | None:
        """Put names into the built-in list's order, others behind: the order trains nothing else.

        So the built-in list's place in the hash of a revision stays as it was.
        """
        return None if names is None else sorted(names, key=_place)


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
