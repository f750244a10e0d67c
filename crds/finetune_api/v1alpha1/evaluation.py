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
        "Dataset that is used only for evaluation. With this dataset, no rows of spec.dataset are "
        "held out. The trainer uses the rows of this dataset for the held-out loss during training "
        "and for the comparison with the base model after training. The prompt template of the "
        "training dataset also applies to these rows.",
        None,
        edit=Edit.RETRAIN,
        unset="rows are held out according to dataset.validationFraction",
    )
    on_regression: Literal["Stall", "Serve"] = field(
        "Reaction if the held-out loss of the tuned model exceeds the held-out loss of its base "
        'model by more than two standard errors. "Stall": the job stalls, and the previous model '
        'continues to be served. "Serve": the tuned model is served anyway. Ignored if fewer than '
        "20 rows are held out.",
        "Stall",
        edit=Edit.NOTHING,
    )
    on_serving_regression: Literal["Serve", "Stall"] = field(
        "Reaction if the held-out loss of the tuned model exceeds the held-out loss of the served "
        'model by more than two standard errors. "Serve": the tuned model replaces the served '
        'model, with a warning. "Stall": the served model is not replaced. Ignored if the two '
        "models were evaluated on different rows.",
        "Serve",
        edit=Edit.NOTHING,
    )
