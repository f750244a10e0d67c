"""May a build be served, as far as its held-out loss tells? Pure.

The trainer measured; here it is decided, so that changing the rule costs no training.
"""

from dataclasses import dataclass
from typing import Literal

from finetune_api.reference import BaseKind
from finetune_api.status import Evaluation, EvaluationStatus

REASON = "EvalGateFailed"
ENOUGH_ROWS = 30
"""Rows from which a standard error of rows is worth something."""
STANDARD_ERRORS = 2.0


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What the evaluation says about a build."""

    outcome: Literal["Passed", "Failed", "NotEvaluated"]
    message: str

    def to_status(self) -> EvaluationStatus:
        """Return it as it stands in ``status.evaluation``."""
        return EvaluationStatus(outcome=self.outcome, message=self.message)


def judge(found: Evaluation | None, base: BaseKind) -> Gate:
    """Return what the evaluation says about the build on one of the bases."""
    if found is None:
        return Gate(
            outcome="NotEvaluated",
            message="no rows were held out: set dataset.validationFraction to evaluate",
        )
    build = found.dequantized if base == "dequantized" else found.original
    if found.rows < ENOUGH_ROWS or build.standard_error is None:
        return Gate(
            outcome="NotEvaluated",
            message=f"{found.rows} held-out rows are too few to decide anything (at least "
            f"{ENOUGH_ROWS}): raise dataset.validationFraction",
        )
    difference, error = float(build.difference), float(build.standard_error)
    numbers = (
        f"held-out loss {float(build.loss):.4f} against the base model's "
        f"{float(found.base_loss):.4f} ({difference:+.4f} ± {error:.4f} a token over {found.rows} "
        f"rows, {found.tokens} tokens)"
    )
    if difference > STANDARD_ERRORS * error:
        return Gate(
            outcome="Failed",
            message=f"the tuned model is worse than its base: {numbers}; train otherwise, or set "
            "evaluation.onRegression to Serve",
        )
    return Gate(outcome="Passed", message=numbers)
