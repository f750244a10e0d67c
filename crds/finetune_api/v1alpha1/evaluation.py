"""``spec.evaluation`` of a FineTuneJob: the gate between a trained model and the endpoint."""

from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule
from finetune_api.v1alpha1 import rows
from finetune_api.v1alpha1.rows import Rows


class EvaluationDataset(Rows):
    """Rows for evaluation only; the model is never trained on them."""

    rules: ClassVar[tuple[Rule, ...]] = rows.rules("evaluation.dataset")


class Evaluation(ApiModel):
    """Evaluation of the tuned model against its base model."""

    dataset: EvaluationDataset | None = field(
        "Rows to evaluate on instead of rows held out of the training dataset. They are used for "
        "the held-out loss during training and for the comparison with the base model at its end, "
        "and are rendered like the training rows.",
        None,
        edit=Edit.RETRAIN,
        builtin="none; rows are held out of dataset according to its validationFraction",
    )
    on_regression: Literal["Stall", "Serve"] = field(
        "What to do if the model's held-out loss exceeds that of its base model by more than two "
        "standard errors, on at least 30 rows. Stall keeps the previous build serving; Serve "
        "serves the model anyway. With fewer held-out rows the model is not gated.",
        "Stall",
        edit=Edit.NOTHING,
    )
