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
    """Comparison of the tuned model with its base model."""

    dataset: EvaluationDataset | None = field(
        "Rows for evaluation, used instead of rows held out of the training dataset. They "
        "determine the held-out loss during training and the comparison with the base model "
        "after training. They are rendered like the training rows.",
        None,
        edit=Edit.RETRAIN,
        unset="rows are held out according to dataset.validationFraction",
    )
    on_regression: Literal["Stall", "Serve"] = field(
        "What the operator does if the held-out loss of the model exceeds that of its base model "
        'by more than two standard errors. "Stall": the previous build continues to serve. '
        '"Serve": the model is served anyway. With fewer than 30 held-out rows, the gate does '
        "not apply.",
        "Stall",
        edit=Edit.NOTHING,
    )
