"""The gate between a trained model and the endpoint.

``spec.evaluation`` and its rules, the held-out losses in the ledger, and ``status.evaluation``.
"""

from typing import ClassVar, Literal

from pydantic import Field

from finetune_api.base import LedgerModel, StatusModel
from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, equals, excludes, is_set
from finetune_api.v1alpha1.data import rows
from finetune_api.v1alpha1.data.rows import AUTO, Rows


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
        "20 held-out rows are compared.",
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
        '20 held-out rows are compared. "NotComparable": the rows or the base models of the two '
        "evaluations differ, or one of the builds has no evaluation."
    )
    message: str = Field(
        description="Measured losses, or the reason why the builds are not comparable."
    )


class EvaluationStatus(StatusModel):
    """Result of the evaluation gate for the target build."""

    outcome: Literal["Passed", "Failed", "NotEvaluated"] = Field(
        description='Result of the evaluation. "Failed": the held-out loss of the tuned model '
        "exceeds the held-out loss of its base model by more than two standard errors. "
        '"Passed": the loss is not above this limit. "NotEvaluated": fewer than 20 held-out '
        "rows are compared."
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


_SETS_FORMATS = (is_set("dataset.format") & ~equals("dataset.format", AUTO)) & (
    is_set("evaluation.dataset.format") & ~equals("evaluation.dataset.format", AUTO)
)
_TRAINS_ON_TEXT = equals("dataset.format", "text")
_EVALUATES_TEXT = equals("evaluation.dataset.format", "text")
_HAS_EVALUATION_DATASET = is_set("evaluation.dataset")
_HOLDS_OUT_NOTHING = equals("dataset.validationFraction", 0.0)
_EVALUATES_NOTHING = _HOLDS_OUT_NOTHING & ~_HAS_EVALUATION_DATASET


def _value_or(group: str, name: str, default: str) -> str:
    """Return the CEL of a field's value, or of its default if it is not set."""
    return f"(has({group}.{name}) ? {group}.{name} : '{default}')"


def _rows_of(dataset: Rows) -> tuple[str, str, str, str]:
    """Return which rows a dataset names: source, revision, configuration and split."""
    return dataset.source, dataset.revision or "main", dataset.config or "", dataset.split


HELD_OUT_RULES: tuple[Rule, ...] = (
    excludes(
        _EVALUATES_NOTHING,
        is_set("training.advanced.evalSteps"),
        "evalSteps needs held-out rows, but validationFraction is 0: remove one of the two "
        "fields, or set evaluation.dataset",
    ),
    excludes(
        _EVALUATES_NOTHING,
        is_set("training.advanced.earlyStoppingPatience"),
        "earlyStoppingPatience needs held-out rows, but validationFraction is 0: remove one "
        "of the two fields, or set evaluation.dataset",
    ),
    excludes(
        _HAS_EVALUATION_DATASET,
        is_set("dataset.validationFraction") & ~_HOLDS_OUT_NOTHING,
        "evaluation.dataset replaces the rows held out by dataset.validationFraction: remove "
        "one of the two fields",
    ),
    excludes(
        _HAS_EVALUATION_DATASET & _SETS_FORMATS,
        (_EVALUATES_TEXT & ~_TRAINS_ON_TEXT) | (~_EVALUATES_TEXT & _TRAINS_ON_TEXT),
        "prompt templates do not apply to rows in the text format: set format: text in both "
        "dataset and evaluation.dataset, or in neither of them",
    ),
    Rule(
        cel=f"!{_HAS_EVALUATION_DATASET.cel} || !has(self.dataset) "
        "|| self.evaluation.dataset.source != self.dataset.source || "
        + " || ".join(
            f"{_value_or('self.evaluation.dataset', name, default)} "
            f"!= {_value_or('self.dataset', name, default)}"
            for name, default in (("revision", "main"), ("config", ""), ("split", "train"))
        ),
        message="evaluation.dataset and dataset select the same rows: set another source, "
        "config or split in evaluation.dataset, or remove evaluation.dataset. Without "
        "evaluation.dataset, rows of dataset are held out",
        fails=lambda spec: (
            spec.evaluation.dataset is not None
            and spec.dataset is not None
            and _rows_of(spec.evaluation.dataset) == _rows_of(spec.dataset)
        ),
    ),
)
"""The rules of a spec that tie held-out rows and ``evaluation.dataset`` to the training dataset."""
