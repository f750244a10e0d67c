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


def test_a_user_with_one_secret_can_name_it_in_every_target(control_plane: ControlPlane) -> None:
    """The check of a permission costs a third of what an expression may cost."""
    secret, authority = {"name": "own"}, {"name": "own", "key": "ca.crt"}
    own_files = {"secretRef": secret, "caConfigMapRef": authority}
    spec: dict[str, Any] = {
        "publish": [
            {"name": f"{scheme}-{number}", "what": "adapter", scheme: {**address, **own_files}}
            for number in range(4)
            for scheme, address in (
                ("oci", {"repository": f"registry.example.com/team/{number}"}),
                ("s3", {"uri": f"s3://bucket/{number}", "endpoint": "https://s3.example.com"}),
            )
        ]
    }
    own = [policy.rule(kind, "use", "own") for kind in ("secrets", "configmaps")]
    policy.grant(control_plane, "default", "member-with-one-secret", *own)
    everything = {"publishDestinations": {"allow": [".*"]}}
    with policy.installed(control_plane, {"policy": everything}):
        for user in ("", "member-with-one-secret"):
            assert policy.rejection(control_plane, "default", spec, user) is None
        for target in spec["publish"]:
            for place in ("oci", "s3"):
                if place in target:
                    target[place] = {**target[place], "secretRef": {"name": "other"}}
        message = policy.rejection(control_plane, "default", spec, "member-with-one-secret")
        assert message is not None
        assert "has no permission to use Secret other, other, other, other" in message


def test_a_user_with_rights_on_all_secrets_can_name_another_one_in_every_target(
    control_plane: ControlPlane,
) -> None:
    spec = {
        "publish": [
            {
                "name": f"target-{number}",
                "what": "adapter",
                "oci": {
                    "repository": f"registry.example.com/team/{number}",
                    "secretRef": {"name": f"secret-{number}"},
                },
            }
            for number in range(8)
        ]
    }
    policy.grant(control_plane, "default", "reader", policy.rule("secrets", "get"))
    with policy.installed(control_plane, {"policy": {"publishDestinations": {"allow": [".*"]}}}):
        assert policy.rejection(control_plane, "default", spec, "reader") is None
