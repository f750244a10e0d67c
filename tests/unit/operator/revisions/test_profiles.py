"""Profiles that are valid, and why others are not; their status; the jobs that they wake."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.apiserver import CONFIG

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.reconcile import profiles as planner
from finetune_operator.revisions import profiles
from finetune_operator.revisions.profiles import parse
from finetune_operator.types import ProfileSnapshot

NOW = datetime(2030, 1, 1, tzinfo=UTC)
Values = dict[str, Any]


def profile(**spec: Any) -> Values:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneProfile",
        "metadata": {"name": "small", "generation": 3, "uid": "u"},
        "spec": spec,
    }


def test_a_valid_profile_names_the_fields_that_its_jobs_must_set() -> None:
    def message(**spec: Any) -> str:
        snapshot = ProfileSnapshot(profile=profile(**spec), settings=CONFIG)
        (valid,) = planner.plan(snapshot, now=NOW).status["conditions"]
        assert valid["status"] == "True"
        return str(valid["message"])

    limits = {"maxSequenceLength": 2048}
    found = message(limits=limits)
    assert "spec.training.sequenceLength: 4096 is not allowed" in found
    assert "Set them in spec.defaults" in found
    shorter = {"training": {"sequenceLength": 2048}}
    assert message(limits=limits, defaults=shorter) == "Jobs can use the profile."


def test_a_valid_profile_has_settings_of_its_own() -> None:
    found = parse(profile(defaults={"training": {"seed": 3}}, queueName="team"), CONFIG)
    assert found.problem is None
    assert found.settings.defaults == {"training": {"seed": 3}, "queueName": "team"}
    assert found.settings != CONFIG
    assert found.settings.gpu == CONFIG.gpu


@pytest.mark.parametrize(
    ("spec", "reason", "message"),
    [
        (
            {"defaults": {"training": {"epoch": 3}}},
            Reason.INVALID_DEFAULTS,
            "spec.defaults.training",
        ),
        ({"defaults": {"training": 3}}, Reason.INVALID_DEFAULTS, "spec.defaults.training"),
        (
            {
                "defaults": {"training": {"sequenceLength": "4096"}},
                "limits": {"maxSequenceLength": 1024},
            },
            Reason.INVALID_DEFAULTS,
            "spec.defaults.training.sequenceLength: Input should be a valid integer (it is '4096')",
        ),
        (
            {
                "defaults": {
                    "serving": {"replicas": "2"},
                    "storage": {"accessMode": "ReadWriteMany"},
                }
            },
            Reason.INVALID_DEFAULTS,
            "spec.defaults.serving.replicas",
        ),
        ({"defaults": {"profile": "x"}}, Reason.INVALID_DEFAULTS, "spec.defaults.profile"),
        (
            {"defaults": {"priorityClassName": "system-node-critical"}},
            Reason.INVALID_DEFAULTS,
            "chart value policy.priorityClasses",
        ),
        (
            {
                "defaults": {"training": {"sequenceLength": 2048}},
                "limits": {"maxSequenceLength": 1024},
            },
            Reason.INVALID_DEFAULTS,
            "limits.maxSequenceLength of FineTuneProfile small",
        ),
        (
            {"limits": {"queues": {"allow": ["team-(a"]}}},
            Reason.INVALID_LIMITS,
            "spec.limits.queues.allow.0: pattern 'team-\\(a' is invalid at character",
        ),
        (
            {"defaults": {"dataset": {"chatTemplate": "x" * 40_000}}},
            Reason.TOO_LARGE,
            "at most 32768 are allowed",
        ),
    ],
    ids=[
        "unknown",
        "type",
        "text",
        "replicas",
        "profile",
        "policy",
        "own limit",
        "pattern",
        "size",
    ],
)
def test_an_invalid_profile_has_a_problem(spec: Values, reason: Reason, message: str) -> None:
    found = parse(profile(**spec), CONFIG)
    assert found.problem is not None
    assert found.problem.reason == reason
    assert message.replace("\\(", "(") in found.problem.message
    assert found.settings == CONFIG
    assert (found.limits is None) == (reason == Reason.INVALID_LIMITS)


def test_defaults_of_chart_and_profile_can_exclude_each_other() -> None:
    chart = CONFIG.model_copy(
        update={"defaults": {"merge": {"enabled": False}, "serving": {"enabled": False}}}
    )
    found = parse(profile(defaults={"serving": {"enabled": True}}), chart)
    assert found.problem is not None
    assert found.problem.reason == Reason.INVALID_DEFAULTS


NUMBERS = ("sequenceLength", "replicas", "maxGpuSeconds")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.just("4096"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["source", "enabled", "s3", "dataset", *NUMBERS, "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        "model", "dataset", "datasets", "training", "evaluation", "serving", "publish", "placement",
        "queueName", "access", "runPolicy", "storage", "profile", "x",
    ]
)  # fmt: skip


@settings(max_examples=400, derandomize=True)
@given(defaults=st.dictionaries(FIELDS, JSON, max_size=3), chart=st.booleans())
def test_no_partial_spec_crashes(defaults: Values, chart: bool) -> None:
    values = {"model": {"source": "hf://acme/base"}, "publish": [], "training": {"maxSteps": 3}}
    below = CONFIG.model_copy(update={"defaults": values}) if chart else CONFIG
    limits = {"maxReplicas": 2, "maxSequenceLength": 1024, "maxGpuSeconds": 60}
    found = parse(profile(defaults=defaults, limits=limits), below)
    assert found.problem is None or found.problem.message


def test_an_unexpected_error_is_a_problem_of_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise KeyError("rows")

    monkeypatch.setattr(profiles, "over_chart", fails)
    found = parse(profile(defaults={"training": {"seed": 11}}), CONFIG)
    assert found.problem is not None
    assert found.problem.reason == Reason.INVALID_DEFAULTS
    assert "KeyError" in found.problem.message


def test_the_status_says_whether_jobs_can_use_a_profile() -> None:
    valid = profile(defaults={"training": {"seed": 3}})
    plan = planner.plan(ProfileSnapshot(profile=valid, settings=CONFIG), now=NOW)
    (condition,) = plan.status["conditions"]
    assert plan.status["observedGeneration"] == condition["observedGeneration"] == 3
    assert (condition["type"], condition["status"], condition["reason"]) == (
        "Valid",
        "True",
        "Valid",
    )
    assert (plan.actions, plan.events) == ((), ())
    # Planned again, the transition keeps its time, and nothing is written.
    again = {**valid, "status": plan.status}
    later = NOW + timedelta(hours=1)
    assert (
        planner.plan(ProfileSnapshot(profile=again, settings=CONFIG), now=later).status
        == plan.status
    )
    broken = {**again, "spec": {"defaults": {"training": {"epoch": 3}}}}
    (condition,) = planner.plan(ProfileSnapshot(profile=broken, settings=CONFIG), now=later).status[
        "conditions"
    ]
    assert (condition["status"], condition["reason"]) == ("False", "InvalidDefaults")
    assert condition["lastTransitionTime"] == "2030-01-01T01:00:00Z"
