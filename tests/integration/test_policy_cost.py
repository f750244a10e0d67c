"""The API server limits the cost of CEL; the largest policy and spec stay within the limit.

Beyond it, admission would reject every FineTuneJob.
"""

from tests.integration import policy
from tests.support.api_server.controlplane import ControlPlane

from finetune_api.policy.limits import MOST_PATTERNS, Limits
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


def test_the_largest_policy_evaluates_the_largest_spec(control_plane: ControlPlane) -> None:
    values = {**dict.fromkeys(LIMITED, LIMIT), "priorityClasses": {"deny": ["system-.*"]}}
    Limits.model_validate(values)
    assert MAX_LENGTH - 8 < len(FAILS_LATE) <= MAX_LENGTH
    spec = {
        "podMetadata": {"labels": LABELS},
        "placement": PLACEMENT,
        "serving": {"placement": PLACEMENT},
    }
    with policy.installed(control_plane, {"policy": values}):
        assert policy.rejection(control_plane, "default", spec) is None
        beyond = {**spec, "priorityClassName": "system-x"}
        message = policy.rejection(control_plane, "default", beyond)
        assert message is not None
        assert "denied request: spec.priorityClassName: " in message
