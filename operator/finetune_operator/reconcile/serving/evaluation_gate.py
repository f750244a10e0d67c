"""The evaluation gate: whether the held-out loss allows a build to be served. Pure.

The trainer measures; the decision is made here, so that changing the rule costs no training.
"""

from dataclasses import dataclass, replace
from typing import Literal

from finetune_api.contracts.reference import BaseKind
from finetune_api.v1alpha1.evaluation import (
    EvaluatedBuild,
    Evaluation,
    EvaluationStatus,
    HeldOutLosses,
    ServingComparison,
)
from finetune_api.v1alpha1.status.artifacts import Artifacts
from finetune_operator.objects.status_view import StatusView
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision

ENOUGH_ROWS = 20
"""Rows from which two standard errors are close to a 95 % interval: Student's t is 2.09 for 20
rows, 2.05 for 30 and 1.96 for many."""
STANDARD_ERRORS = 2.0


@dataclass(frozen=True, kw_only=True)
class GateDecision:
    """The decision about a build."""

    outcome: Literal["Passed", "Failed", "NotEvaluated"]
    message: str
    against_serving: ServingComparison | None = None

    def to_status(self) -> EvaluationStatus:
        """Return the decision in the form of ``status.evaluation``."""
        return EvaluationStatus(
            outcome=self.outcome, message=self.message, against_serving=self.against_serving
        )


@dataclass(frozen=True, kw_only=True)
class Build:
    """A build in the ledger: its revision's artifacts, and the base that it runs on."""

    build: str
    artifacts: Artifacts
    base: BaseKind | None


def judge(losses: HeldOutLosses | None, base: BaseKind) -> GateDecision:
    """Return the decision about the build on one of the bases. losses: None if not evaluated."""
    if losses is None:
        return GateDecision(
            outcome="NotEvaluated",
            message="The model was not evaluated because no rows were held out. To evaluate it, "
            "set validationFraction of the dataset, or set spec.evaluation.dataset.",
        )
    build = _of(losses, base)
    if losses.rows < ENOUGH_ROWS or build.standard_error is None:
        return GateDecision(
            outcome="NotEvaluated",
            message=f"{losses.rows} held-out rows are too few for a decision (at least "
            f"{ENOUGH_ROWS} are needed). Raise validationFraction of the dataset, or add rows "
            "to spec.evaluation.dataset.",
        )
    difference, error = float(build.difference), float(build.standard_error)
    numbers = (
        f"held-out loss {float(build.loss):.4f}, held-out loss of the base model "
        f"{float(losses.base_loss):.4f} (difference per token {difference:+.4f}, "
        f"standard error {error:.4f}, {losses.rows} rows, {losses.tokens} tokens)"
    )
    if difference > STANDARD_ERRORS * error:
        return GateDecision(
            outcome="Failed",
            message=f"The tuned model is worse than its base model: {numbers}. Change the dataset "
            "or spec.training. To serve the model anyway, set spec.evaluation.onRegression to "
            "Serve.",
        )
    return GateDecision(outcome="Passed", message=f"The tuned model passed: {numbers}.")


def compare(candidate: Build, serving: Build) -> ServingComparison:
    """Compare a build with the one that it would replace, by the losses that training recorded.

    Both were paired with the same base on the same rows. The difference between the builds is the
    difference of their differences from the base, so its standard error is at most the sum of the
    two standard errors. The rows' own losses are on two volumes, which are never mounted together.
    """
    new, old = candidate.artifacts.evaluation, serving.artifacts.evaluation
    reason = _not_comparable(candidate, serving)
    if reason is not None or new is None or old is None:
        return ServingComparison(
            build=serving.build, outcome="NotComparable", message=reason or "No evaluation."
        )
    ours, theirs = _of(new, candidate.base), _of(old, serving.base)
    difference = float(ours.loss) - float(theirs.loss)
    error = float(ours.standard_error or "inf") + float(theirs.standard_error or "inf")
    outcome: Literal["Better", "Worse", "Undecided"] = "Undecided"
    if abs(difference) > STANDARD_ERRORS * error and new.rows >= ENOUGH_ROWS:
        outcome = "Better" if difference < 0 else "Worse"
    return ServingComparison(
        build=serving.build,
        outcome=outcome,
        message=f"The held-out loss of the new build is {float(ours.loss):.4f}. The held-out loss "
        f"of build {serving.build} is {float(theirs.loss):.4f}. The difference per token is "
        f"{difference:+.4f} with a standard error of at most {error:.4f}, "
        f"over {new.rows} rows ({new.tokens} tokens).",
    )


def _not_comparable(candidate: Build, serving: Build) -> str | None:
    for build in (candidate, serving):
        if build.artifacts.evaluation is None:
            return f"Build {build.build} was not evaluated: no rows were held out."
        if build.base is None or build.artifacts.evaluation.rows_digest is None:
            return (
                f"Build {build.build} was evaluated by an earlier version of the operator or "
                "trainer, which did not record all values that the comparison needs."
            )
    new, old = candidate.artifacts, serving.artifacts
    if new.base_commit != old.base_commit:
        return (
            f"Build {serving.build} and the new build were tuned from different base models, or "
            "from different commits of the same base model."
        )
    if (new.evaluation and new.evaluation.rows_digest) != (
        old.evaluation and old.evaluation.rows_digest
    ):
        return f"Build {serving.build} was evaluated on other held-out rows than the new build."
    return None


def _of(losses: HeldOutLosses, base: BaseKind | None) -> EvaluatedBuild:
    return losses.dequantized if base == "dequantized" else losses.original


def gate(
    previous: StatusView, target: TargetRevision, ledger: Ledger, served: str | None
) -> GateDecision:
    """Return the decision about the target's build. served: the serving build, or None."""
    record = ledger.revision(target.revision)
    judged = judge(record.artifacts.evaluation, base_of(target))
    return replace(judged, against_serving=_against_serving(previous, target, ledger, served))


def refusal(gate: GateDecision, policy: Evaluation) -> str | None:
    """Return why a build must not be served according to the spec, None if it may be served."""
    if gate.outcome == "Failed" and policy.on_regression == "Stall":
        return gate.message
    if policy.on_serving_regression == "Stall" and (worse := _worse(gate)):
        return (
            f"{worse} Change the dataset or spec.training. To serve the model anyway, set "
            "spec.evaluation.onServingRegression to Serve."
        )
    return None


def warnings(gate: GateDecision) -> tuple[str, ...]:
    """Return a warning if the build is worse than the build that it would replace."""
    worse = _worse(gate)
    return () if worse is None else (worse,)


def _worse(gate: GateDecision) -> str | None:
    compared = gate.against_serving
    if compared is None or compared.outcome != "Worse":
        return None
    return f"The tuned model is worse than the model that it would replace. {compared.message}"


def base_of(target: TargetRevision) -> BaseKind:
    """Return the base that the target's build runs on.

    An adapter in serving pods runs on the original base, and in a FineTuneEndpoint on its own one.
    """
    spec = target.resolved.spec
    if target.endpoint_name is not None:
        return "dequantized" if target.endpoint is None else target.endpoint.limits.base
    return "original" if spec.serving.mode == "adapter" else spec.merge.base


def _against_serving(
    previous: StatusView, target: TargetRevision, ledger: Ledger, served: str | None
) -> ServingComparison | None:
    """Compare the target's build with the serving one; once it serves, keep the last comparison."""
    if served is None:
        return None
    if served == target.build:
        compared = previous.against_serving
        same = compared is not None and previous.build == target.build
        return ServingComparison.model_validate(compared) if same else None
    revision = ledger.revision_of(served)
    attempt = ledger.serving(served)
    return compare(
        Build(
            build=target.build,
            artifacts=ledger.revision(target.revision).artifacts,
            base=base_of(target),
        ),
        Build(
            build=served,
            artifacts=ledger.revision(revision or "").artifacts,
            base=attempt.base if attempt else None,
        ),
    )
