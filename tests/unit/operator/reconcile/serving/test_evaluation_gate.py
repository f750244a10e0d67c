"""The evaluation gate: its decision, and the effect on a job."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import controllers
from tests.fakes.apiserver import SPEC, Cluster
from tests.support.reconcile import plan_steps

from finetune_api.v1alpha1.evaluation import EvaluatedBuild, HeldOutLosses
from finetune_api.v1alpha1.status.artifacts import Artifacts
from finetune_operator.reconcile.serving.evaluation_gate import Build, compare, judge
from finetune_trainer.evaluation.loss_comparison import difference


def found(difference: float, error: float | None = 0.1, rows: int = 45) -> HeldOutLosses:
    build = EvaluatedBuild(
        loss="1.50000",
        difference=f"{difference:.5f}",
        standard_error=None if error is None else f"{error:.5f}",
    )
    return HeldOutLosses(
        rows=rows,
        tokens=2100,
        base_loss="1.40000",
        rows_digest="sha256:a",
        dequantized=build,
        original=build,
    )


def build(name: str, loss: float, **changes: Any) -> Build:
    """Return a build with this held-out loss, ± 0.1 against its base."""
    numbers = EvaluatedBuild(loss=f"{loss:.5f}", difference="0", standard_error="0.1")
    evaluation = found(0).model_copy(
        update={"original": numbers, "dequantized": numbers} | changes.pop("evaluation", {})
    )
    artifacts = Artifacts(evaluation=evaluation, base_commit="c")
    return Build(
        build=name,
        artifacts=artifacts.model_copy(update=changes.pop("artifacts", {})),
        base=changes.pop("base", "original"),
    )


@pytest.mark.parametrize(
    ("evaluation", "outcome", "said"),
    [
        (None, "NotEvaluated", "set validationFraction of the dataset, or set spec.eval"),
        (found(9.0, rows=19), "NotEvaluated", "19 held-out rows are too few"),
        (found(9.0, error=None), "NotEvaluated", "too few"),
        (found(0.19), "Passed", "+0.1900, standard error 0.1000, 45 rows, 2100 tokens"),
        (found(0.21), "Failed", "1.5000, held-out loss of the base model 1.4000 (difference"),
        (found(0.21, rows=20), "Failed", "set spec.evaluation.onRegression to Serve"),
        (found(-3.0), "Passed", "-3.0000"),
    ],
)
def test_gate_outcome_of_an_evaluation(
    evaluation: HeldOutLosses | None, outcome: str, said: str
) -> None:
    gate = judge(evaluation, "dequantized")
    assert gate.outcome == outcome
    assert said in gate.message


def test_each_base_has_its_own_numbers() -> None:
    good, bad = found(-1.0), found(1.0)
    evaluation = good.model_copy(update={"original": bad.original})
    assert judge(evaluation, "dequantized").outcome == "Passed"
    assert judge(evaluation, "original").outcome == "Failed"


@given(difference=st.floats(-5, 5), error=st.floats(1e-4, 2))
def test_a_better_model_never_fails(difference: float, error: float) -> None:
    outcomes = [judge(found(each, error), "original").outcome for each in (difference, -5.0)]
    assert outcomes[1] == "Passed"
    assert (outcomes[0] == "Failed") <= (difference > 0)


@pytest.mark.parametrize(
    ("loss", "outcome", "said"),
    [
        (
            1.0,
            "Better",
            "1.0000. The held-out loss of build old is 2.0000. The difference per token is -1.0000 "
            "with a standard error of at most 0.2000, over",
        ),
        (1.61, "Undecided", "-0.3900 with a standard error of at most 0.2000"),
        (2.39, "Undecided", "+0.3900"),
        (2.41, "Worse", "+0.4100"),
    ],
)
def test_comparison_with_the_serving_build(loss: float, outcome: str, said: str) -> None:
    comparison = compare(build("new", loss), build("old", 2.0))
    assert (comparison.build, comparison.outcome) == ("old", outcome)
    assert said in comparison.message


@pytest.mark.parametrize(("rows", "outcome"), [(19, "Undecided"), (20, "Worse")])
def test_a_comparison_over_few_rows_is_undecided(rows: int, outcome: str) -> None:
    few = {"evaluation": {"rows": rows}}
    assert compare(build("new", 3.0, **few), build("old", 2.0, **few)).outcome == outcome


@pytest.mark.parametrize("unknown", ["new", "old", "both"])
def test_a_comparison_without_a_standard_error_is_undecided(unknown: str) -> None:
    numbers = EvaluatedBuild(loss="9.0", difference="0", standard_error=None)
    without = {"evaluation": {"original": numbers}}
    new, old = (
        build(name, 2.0, **(without if unknown in (name, "both") else {}))
        for name in ("new", "old")
    )
    comparison = compare(new, old)
    assert comparison.outcome == "Undecided"
    assert "with a standard error of at most inf" in comparison.message


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ({"artifacts": {"evaluation": None}}, "Build old was not evaluated"),
        ({"artifacts": {"base_commit": "d"}}, "different base models, or from different commits"),
        ({"evaluation": {"rows_digest": "sha256:b"}}, "was evaluated on other held-out rows"),
        ({"evaluation": {"rows_digest": None}}, "an earlier version"),
        ({"base": None}, "an earlier version"),
    ],
)
def test_builds_that_are_not_comparable(old: dict[str, Any], said: str) -> None:
    comparison = compare(build("new", 1.0), build("old", 2.0, **old))
    assert comparison.outcome == "NotComparable"
    assert said in comparison.message


def test_each_build_counts_with_the_base_that_it_runs_on() -> None:
    better = EvaluatedBuild(loss="1.00000", difference="0", standard_error="0.1")
    candidate = build("new", 3.0, evaluation={"dequantized": better}, base="dequantized")
    assert compare(candidate, build("old", 2.0)).outcome == "Better"


@given(
    st.lists(
        st.tuples(st.floats(-3, 0), st.floats(-3, 0), st.floats(-3, 0), st.integers(1, 9)),
        min_size=2,
        max_size=40,
    )
)
def test_the_error_of_a_comparison_is_at_most_the_sum_of_both(
    rows: list[tuple[float, float, float, int]],
) -> None:
    new, old, base = ([[row[at]] * row[3] for row in rows] for at in range(3))
    bound = difference(new, base).standard_error + difference(old, base).standard_error
    assert difference(new, old).standard_error <= bound + 1e-9


def trained(cluster: Cluster, evaluation: HeldOutLosses) -> None:
    """Take a job through its merge, with an evaluation from its training."""
    plan_steps.run("prepare")(cluster)
    artifacts: dict[str, Any] = {"evaluation": evaluation.model_dump(exclude_none=True)}
    controllers.run(cluster, "train", text=controllers.message("train", artifacts=artifacts))
    plan_steps.run("merge")(cluster)
    cluster.settle()


def condition(cluster: Cluster, type_: str) -> dict[str, Any]:
    return next(each for each in cluster.status["conditions"] if each["type"] == type_)


def test_a_worse_model_is_not_served_and_the_user_may_override() -> None:
    cluster = Cluster()
    trained(cluster, found(0.5))
    assert condition(cluster, "Ready")["reason"] == "EvalGateFailed"
    assert condition(cluster, "Ready")["message"].startswith("The tuned model is worse")
    assert condition(cluster, "Merged")["status"] == "True"
    assert cluster.status["evaluation"]["outcome"] == "Failed"
    assert cluster.list("Deployment") == []
    cluster.edit(evaluation={"onRegression": "Serve"})
    cluster.settle()
    plan_steps.serve(cluster)
    assert condition(cluster, "Ready")["status"] == "True"
    # A serving build is not stopped by a rule that would not have admitted it.
    cluster.edit(evaluation=None)
    cluster.settle()
    assert condition(cluster, "Ready")["status"] == "True"


def test_an_adapter_is_judged_on_the_original_base() -> None:
    better, worse = found(-1.0), found(1.0)
    spec = {**SPEC, "serving": {"mode": "adapter"}, "merge": {"base": "dequantized"}}
    for evaluation, outcome in (
        (better.model_copy(update={"original": worse.original}), "Failed"),
        (worse.model_copy(update={"original": better.original}), "Passed"),
    ):
        cluster = Cluster(spec=spec)
        plan_steps.run("prepare")(cluster)
        artifacts: dict[str, Any] = {"evaluation": evaluation.model_dump(exclude_none=True)}
        controllers.run(cluster, "train", text=controllers.message("train", artifacts=artifacts))
        cluster.settle()
        assert cluster.status["evaluation"]["outcome"] == outcome


def test_the_stable_build_serves_when_the_gate_fails() -> None:
    cluster = Cluster()
    plan_steps.run_all(cluster)
    (before,) = cluster.list("Deployment")
    cluster.edit(rerun="again")
    trained(cluster, found(0.5))
    assert condition(cluster, "Ready")["reason"] == "EvalGateFailed"
    assert condition(cluster, "Serving")["status"] == "True"
    assert [each["metadata"]["name"] for each in cluster.list("Deployment")] == [
        before["metadata"]["name"]
    ]


def test_the_numbers_are_in_the_ledger() -> None:
    cluster = Cluster()
    trained(cluster, found(-0.5))
    (revision,) = cluster.status["revisions"]
    assert revision["artifacts"]["evaluation"]["dequantized"]["difference"] == "-0.50000"
    assert cluster.status["evaluation"]["outcome"] == "Passed"
    plan_steps.serve(cluster)
    assert condition(cluster, "Ready")["status"] == "True"


def test_the_comparison_with_the_replaced_build_is_kept() -> None:
    cluster = Cluster()
    trained(cluster, found(-0.5))
    plan_steps.serve(cluster)
    assert "againstServing" not in cluster.status["evaluation"]
    before = cluster.status["build"]
    cluster.edit(rerun="again")
    better = EvaluatedBuild(loss="0.50000", difference="-0.9", standard_error="0.1")
    trained(cluster, found(0).model_copy(update={"dequantized": better}))
    comparison = cluster.status["evaluation"]["againstServing"]
    assert (comparison["build"], comparison["outcome"]) == (before, "Better")
    plan_steps.serve(cluster)
    assert cluster.status["serving"]["build"] != before
    assert cluster.status["evaluation"]["againstServing"] == comparison


def a_worse_successor(cluster: Cluster, **evaluation: str) -> str:
    """Serve a build, then train one with a higher held-out loss; return the first build."""
    trained(cluster, found(-0.5))
    plan_steps.serve(cluster)
    before = str(cluster.status["build"])
    cluster.edit(rerun="again", **({"evaluation": evaluation} if evaluation else {}))
    worse = EvaluatedBuild(loss="2.50000", difference="0.1", standard_error="0.1")
    trained(cluster, found(0).model_copy(update={"dequantized": worse}))
    return before


WORSE = (
    "The tuned model is worse than the model that it would replace. The held-out loss of the new "
    "build is 2.5000. "
)


def test_a_model_worse_than_the_serving_one_raises_a_warning() -> None:
    cluster = Cluster()
    before = a_worse_successor(cluster)
    assert cluster.status["evaluation"]["againstServing"]["outcome"] == "Worse"
    (warning,) = cluster.status["warnings"]
    assert warning.startswith(WORSE)
    plan_steps.serve(cluster)
    assert cluster.status["serving"]["build"] != before
    assert cluster.status["warnings"] == [warning], "it stays while the build serves"
    assert "WarningRaised" not in [event.reason for event in cluster.plan().events]


def test_a_model_worse_than_the_serving_one_is_not_served_if_the_spec_says_so() -> None:
    cluster = Cluster()
    before = a_worse_successor(cluster, onServingRegression="Stall")
    assert condition(cluster, "Ready")["reason"] == "EvalGateFailed"
    message = condition(cluster, "Ready")["message"]
    assert message.startswith(WORSE)
    assert "set spec.evaluation.onServingRegression to Serve." in message
    assert message.endswith(
        f" Build {before} of revision {cluster.revisions[0]} continues to serve."
    )
    assert condition(cluster, "Finished")["status"] == "True"
    assert cluster.status["serving"]["build"] == before
    cluster.edit(evaluation={"onServingRegression": "Serve"})
    cluster.settle()
    plan_steps.serve(cluster)
    assert cluster.status["serving"]["build"] != before
