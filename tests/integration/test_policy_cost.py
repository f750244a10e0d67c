"""The API server limits the cost of CEL; the largest policy and spec stay within the limit.

Beyond it, admission would reject every FineTuneJob.
"""

from typing import Any

from tests.integration import policy
from tests.support.api_server.controlplane import ControlPlane, wait_until

from finetune_api.policy import admission, profile_admission
from finetune_api.policy.limits import MOST_PATTERNS, UNLIMITED, Limits
from finetune_api.policy.patterns import MAX_LENGTH

FAILS_LATE = "(.*" + "a|b?" * 29 + ")[x-z]"
NEVER = f"({'q' * 100}|{'z' * 20})"
LIMIT = {
    "allow": [*[FAILS_LATE] * (MOST_PATTERNS - 1), ".*"],
    "deny": [NEVER] * MOST_PATTERNS,
}
LIMITED = ("podLabels", "nodeSelectors", "tolerations", "sources", "gpuStageResources")
KEYS = [f"{'a.' * 120}example/{'k' * 60}{number}" for number in range(10, 26)]
LABELS = dict.fromkeys(KEYS, "v" * 63)
PLACEMENT = {
    "nodeSelector": LABELS,
    "tolerations": [{"key": key, "value": "v" * 63} for key in KEYS],
}


ANY = {"allow": [".*"], "deny": []}
LARGEST: dict[str, Any] = {
    "podMetadata": {"labels": LABELS},
    "placement": PLACEMENT,
    "serving": {"placement": PLACEMENT},
}
PROFILES = "/apis/finetune.dev/v1alpha1/finetuneprofiles"


def test_the_largest_limits_of_a_profile_evaluate_the_largest_spec(
    control_plane: ControlPlane,
) -> None:
    limits = {**dict.fromkeys(UNLIMITED, LIMIT), "priorityClasses": {"deny": ["system-.*"]}}
    profile = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneProfile",
        "metadata": {"name": "largest"},
        "spec": {"limits": limits},
    }
    anything = dict.fromkeys(("nodeSelectors", "tolerations", "podLabels", "priorityClasses"), ANY)
    with policy.installed(control_plane, {"policy": anything}):
        control_plane.post(PROFILES, profile)
        try:
            beyond = {**LARGEST, "profile": "largest", "priorityClassName": "system-x"}
            wait_until(
                "the profile is known",
                lambda: (
                    "limits.priorityClasses of FineTuneProfile largest"
                    in str(policy.rejection(control_plane, "default", beyond))
                ),
            )
            spec = {**LARGEST, "profile": "largest"}
            assert policy.rejection(control_plane, "default", spec) is None
        finally:
            control_plane.delete(f"{PROFILES}/largest")


def test_no_expression_of_the_policies_is_near_the_limit_of_their_length() -> None:
    """An API server may reject expressions of 100,000 characters."""
    for part in (admission, profile_admission):
        for each in part.variables():
            assert len(each["expression"]) < 50_000, each["name"]


def test_the_largest_policy_evaluates_the_largest_spec(control_plane: ControlPlane) -> None:
    values = {**dict.fromkeys(LIMITED, LIMIT), "priorityClasses": {"deny": ["system-.*"]}}
    Limits.model_validate(values)
    assert MAX_LENGTH - 8 < len(FAILS_LATE) <= MAX_LENGTH
    with policy.installed(control_plane, {"policy": values}):
        assert policy.rejection(control_plane, "default", LARGEST) is None
        beyond = {**LARGEST, "priorityClassName": "system-x"}
        message = policy.rejection(control_plane, "default", beyond)
        assert message is not None
        assert "denied request: spec.priorityClassName: " in message
