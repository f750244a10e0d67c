"""``spec.training`` of a FineTuneJob: the QLoRA recipe."""

from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, contains, equals, excludes, is_set
from finetune_api.v1alpha1.training.advanced import AdvancedTraining
from finetune_api.v1alpha1.training.lora import Lora
from finetune_api.v1alpha1.training.start_from import StartFrom


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
        builtin="the number of steps in all epochs",
        ge=1,
    )
    learning_rate: float = field("Peak learning rate.", 2e-4, edit=Edit.RETRAIN, gt=0, le=1)
    effective_batch_size: int = field(
        "Number of rows per optimizer step, or of sequences if rows are packed: the micro-batch "
        "size times the number of gradient accumulation steps.",
        8,
        edit=Edit.RETRAIN,
        ge=1,
        le=4096,
    )
    sequence_length: int = field(
        "Maximum length of a row in tokens. For longer rows, see advanced.overlong.",
        4096,
        edit=Edit.RETRAIN,
        ge=32,
        le=1_048_576,
    )
    packing: Literal["auto", "always", "never"] = field(
        "Whether to pack several short rows into one sequence. Attention does not cross the "
        "boundaries between the rows. Packing can reduce the number of optimizer steps. With "
        '"auto", the rows are packed only if at least 200 steps remain and the layers of the model '
        "keep packed rows apart.",
        "auto",
        edit=Edit.RETRAIN,
    )
    train_on: Literal["responses", "all"] | None = field(
        'Tokens that contribute to the loss: "responses" (only the tokens of the responses), '
        'or "all" (all tokens).',
        None,
        edit=Edit.RETRAIN,
        builtin='"all" if dataset.format is "text", otherwise "responses"',
    )
    lora: Lora = field("Settings of the LoRA adapter.", Lora(), edit=Edit.RETRAIN)
    start_from: StartFrom | None = field(
        "Adapter to continue from. Its base model, its rank, its alpha and its modules must be "
        "those of the job. Optimizer and schedule start again.",
        None,
        edit=Edit.RETRAIN,
        unset="training starts from a new adapter",
    )
    seed: int = field(
        "Random seed for initialization, for the order of the rows, and for the selection of "
        "held-out rows.",
        3407,
        edit=Edit.RETRAIN,
        ge=0,
        le=4294967295,
    )
    deterministic: bool = field(
        "Use only algorithms that produce bit-identical results in every run on the same GPU "
        "model. These algorithms are slower. On a CPU, training is always deterministic.",
        False,
        edit=Edit.RETRAIN,
    )
    advanced: AdvancedTraining = field(
        "Training settings that most jobs leave at their defaults.",
        AdvancedTraining(),
        edit=Edit.RETRAIN,
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        excludes(
            is_set("epochs"),
            is_set("maxSteps"),
            "maxSteps and epochs are mutually exclusive: remove one of them",
        ),
        excludes(
            equals("advanced.ligerFusedLinearCrossEntropy", True),
            contains("lora.modulesToSave", "lm_head"),
            "Liger's loss does not train the head: remove lm_head from lora.modulesToSave, or set "
            "advanced.ligerFusedLinearCrossEntropy: false",
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
