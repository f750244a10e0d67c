"""``spec.evaluation`` of a FineTuneJob: the gate between a trained model and the endpoint."""

from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, Rule, field
from finetune_api.v1alpha1 import rows
from finetune_api.v1alpha1.rows import Rows


class EvaluationDataset(Rows):
    """Rows that are evaluated on and never trained on."""

    rules: ClassVar[tuple[Rule, ...]] = rows.rules("evaluation.dataset")


class Evaluation(ApiModel):
    """What a tuned model is evaluated on, and what becomes of one that is worse than its base."""

    dataset: EvaluationDataset | None = field(
        "Rows to evaluate on, in place of rows held out of the training dataset: for the held-out "
        "loss in training and for the comparison with the base model at its end. They are "
        "rendered as those that are trained on.",
        None,
        edit=Edit.RETRAIN,
        builtin="none: rows held out of dataset, as its validationFraction says",
    )
    on_regression: Literal["Stall", "Serve"] = field(
        "What to do with a model whose held-out loss is above its base model's by more than two "
        "standard errors, on at least 30 rows: Stall does not serve it, and what served before "
        "goes on; Serve serves it all the same. With fewer held-out rows nothing is decided.",
        "Stall",
        edit=Edit.NOTHING,
    )
