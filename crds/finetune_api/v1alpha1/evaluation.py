"""The gate between a trained model and the endpoint.

``spec.evaluation``, the held-out losses in the ledger, and ``status.evaluation``.
"""

from typing import ClassVar, Literal

from pydantic import Field

from finetune_api.base import LedgerModel, StatusModel
from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule
from finetune_api.v1alpha1.data import rows
from finetune_api.v1alpha1.data.rows import Rows


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


class EvaluatedBuild(LedgerModel):
    """Held-out loss of one of the two models that a merge can produce."""

    loss: str = Field(
        description="Mean held-out loss of the tuned model per answer token, in nats."
    )
    difference: str = Field(
        description="Mean held-out loss of the tuned model minus mean held-out loss of the base "
        "model, per answer token, in nats. A positive value means that the tuned model is worse."
    )
    standard_error: str | None = Field(
        None,
        description="Standard error of the difference, in nats. The trainer computes this error "
        "from the differences of the individual rows.",
    )


class EvaluatedDataset(LedgerModel):
    """Held-out losses on the rows of one of several datasets."""

    name: str = Field(description="Path in the spec. Example: datasets[support].", max_length=64)
    tokens: int = Field(description="Number of answer tokens in the held-out rows of the dataset.")
    base_loss: str = Field(description="Mean held-out loss of the base model per answer token.")
    loss: str = Field(
        description="Mean held-out loss of the tuned model per answer token, with the base "
        "weights rounded to 4 bits."
    )


class HeldOutLosses(LedgerModel):
    """Evaluation of the tuned model and its base model on held-out rows."""

    rows: int = Field(description="Number of held-out rows in the evaluation.")
    tokens: int = Field(description="Number of answer tokens in the held-out rows.")
    base_loss: str = Field(
        description="Mean held-out loss of the base model per answer token, in nats."
    )
    rows_digest: str | None = Field(
        None,
        description="Digest of the token IDs of the held-out rows. Two evaluations are "
        "comparable only if their digests are equal.",
    )
    dequantized: EvaluatedBuild = Field(
        description="Held-out loss of the tuned model if the adapter is applied to base weights "
        "rounded to 4 bits, as with merge.base: dequantized."
    )
    datasets: list[EvaluatedDataset] | None = Field(
        None,
        description="Held-out losses on the rows of each dataset. Present only if the job has "
        "several datasets and no evaluation dataset.",
    )
    original: EvaluatedBuild = Field(
        description="Held-out loss of the tuned model if the adapter is applied to the weights of "
        "the published base model, as with merge.base: original."
    )


class ServingComparison(StatusModel):
    """Comparison of a build with the build that was serving, on the same rows."""

    build: str = Field(
        description="Name of the build that was serving at the time of the comparison."
    )
    outcome: Literal["Better", "Worse", "Undecided", "NotComparable"] = Field(
        description="Held-out loss of the target build compared with the serving build. "
        '"Better": the loss is lower by more than two standard errors. "Worse": the loss is higher '
        'by more than two standard errors. "Undecided": the difference is smaller, or fewer than '
        '20 rows are held out. "NotComparable": the rows or the base models of the two evaluations '
        "differ, or one of the builds has no evaluation."
    )
    message: str = Field(
        description="Measured losses, or the reason why the builds are not comparable."
    )


class EvaluationStatus(StatusModel):
    """Result of the evaluation gate for the target build."""

    outcome: Literal["Passed", "Failed", "NotEvaluated"] = Field(
        description='Result of the evaluation. "Failed": the held-out loss of the tuned model '
        "exceeds the held-out loss of its base model by more than two standard errors. "
        '"Passed": the loss is not above this limit. "NotEvaluated": fewer than 20 rows are held '
        "out."
    )
    message: str = Field(
        description="Measured losses, or the reason why the model was not evaluated."
    )
    against_serving: ServingComparison | None = Field(
        None,
        description="Comparison of the target build with the build that is serving. If the target "
        "build is worse, the operator issues a warning. If evaluation.onServingRegression is "
        '"Stall", the operator does not serve a worse build.',
    )
