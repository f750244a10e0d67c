"""Limits on the resolved spec: messages, and the manifests of the documentation."""

from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.base import Values
from finetune_api.defaulting import builtin_defaults, resolve
from finetune_api.policy.check import serving_keys, violations, violations_of_defaults
from finetune_api.policy.limits import FIELDS, MOST_PATTERNS, Limits, Names
from finetune_api.policy.rules import NAME_RULES
from finetune_api.v1alpha1.spec import FineTuneJobSpec

SPEC: Values = {
    "model": {"source": "hf://org/model"},
    "dataset": {"source": "hf://org/data", "format": "text"},
}


def resolved(**spec: Any) -> FineTuneJobSpec:
    return resolve({**SPEC, **spec}, builtin_defaults()).spec


def found(spec: FineTuneJobSpec, **limits: Any) -> list[str]:
    return [each.message for each in violations(spec, Limits.model_validate(limits))]


def test_a_message_names_field_value_limit_and_remediation() -> None:
    assert found(resolved(priorityClassName="system-node-critical")) == [
        'spec.priorityClassName: "system-node-critical" is not allowed. Allowed: .*; except '
        "system-.* (chart value policy.priorityClasses). Set an allowed value, or ask your "
        "cluster administrator to allow this one."
    ]


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("app", False),
        ("kuma.io/mesh", False),
        ("admission.datadoghq.com/enabled", False),
        ("azure.workload.identity/use", False),
        ("sidecar.istio.io/inject", False),
        ("example.com/team", True),
    ],
)
def test_labels_to_which_other_components_react_are_not_allowed_by_default(
    key: str, allowed: bool
) -> None:
    assert (found(resolved(podMetadata={"labels": {key: "x"}})) == []) is allowed


def test_a_message_names_the_first_of_several_values() -> None:
    (message,) = found(resolved(podMetadata={"labels": {"b": "1", "a": "1", "x.example/c": ""}}))
    assert message.startswith('spec.podMetadata.labels: "a" is not allowed.')


@pytest.mark.parametrize(
    ("spec", "limits", "message"),
    [
        (
            {"serving": {"replicas": 4}, "storage": {"accessMode": "ReadWriteMany"}},
            {"maxReplicas": 3},
            "spec.serving.replicas: 4 is not allowed. At most 3 is allowed",
        ),
        (
            {"runPolicy": {"maxGpuSeconds": 7200}},
            {"maxGpuSeconds": 3600},
            "spec.runPolicy.maxGpuSeconds: 7200 is not allowed. At most 3600 is allowed",
        ),
        (
            {},
            {"maxGpuSeconds": 3600},
            "spec.runPolicy.maxGpuSeconds: set this field, because the chart value "
            "policy.maxGpuSeconds requires it.",
        ),
        (
            {"serving": {"idle": {"afterSeconds": 7200}}},
            {"maxIdleSeconds": 3600},
            "spec.serving.idle.afterSeconds: 7200 is not allowed. At most 3600 is allowed",
        ),
        (
            {},
            {"maxIdleSeconds": 3600},
            "spec.serving.idle.afterSeconds: set this field, because the chart value "
            "policy.maxIdleSeconds requires it.",
        ),
        (
            {},
            {"requireQueue": True},
            "spec.queueName: set this field, because the chart value policy.requireQueue requires "
            "it.",
        ),
    ],
)
def test_numbers_and_required_fields(spec: Values, limits: Values, message: str) -> None:
    (only,) = found(resolved(**spec), **limits)
    assert only.startswith(message)


def test_a_shared_job_needs_no_field_that_its_endpoint_has() -> None:
    limits = {"requireApiKey": True, "maxIdleSeconds": 3600}
    shared = resolved(serving={"mode": "shared", "endpointRef": {"name": "shared"}})
    assert found(shared, **limits) == []
    assert len(found(resolved(serving={"mode": "adapter"}), **limits)) == 2


def test_limits_are_inclusive() -> None:
    spec = resolved(
        serving={"replicas": 3},
        storage={"accessMode": "ReadWriteMany"},
        runPolicy={"maxGpuSeconds": 3600},
        queueName="team",
    )
    assert found(spec, maxReplicas=3, maxGpuSeconds=3600, requireQueue=True) == []


def test_every_limit_on_names_has_a_rule() -> None:
    names = {alias for alias, name in FIELDS.items() if isinstance(getattr(Limits(), name), Names)}
    assert {rule.limit for rule in NAME_RULES} - {None} == names


@pytest.mark.parametrize(
    "limits",
    [
        {"secrets": {"allow": ["("]}},
        {"secrets": {"allow": ["a"] * (MOST_PATTERNS + 1)}},
        {"secrets": {"permit": []}},
        {"maxReplicas": 0},
    ],
)
def test_invalid_limits_are_rejected(limits: Values) -> None:
    with pytest.raises(ValidationError):
        Limits.model_validate(limits)


def test_defaults_beyond_a_limit_are_named() -> None:
    limits = Limits(max_gpu_seconds=3600, require_queue=True)
    assert violations_of_defaults({}, limits) == ()
    messages = violations_of_defaults({"priorityClassName": "system-x"}, limits)
    assert [message.split(":")[0] for message in messages] == ["spec.priorityClassName"]


def test_keys_change_with_the_values_of_serving_pods_only() -> None:
    keys = set(serving_keys(resolved()))
    assert set(serving_keys(resolved(access={"serviceAccountName": "a"}))) == keys
    labels = resolved(podMetadata={"labels": {"example.com/a": "1"}})
    assert len(set(serving_keys(labels)) - keys) == 1
    (violation,) = violations(labels, Limits(pod_labels=Names(allow=())))
    assert violation.key in serving_keys(labels)


@pytest.mark.parametrize("others", [[], [{"source": "hf://org/data"}]], ids=["one", "two"])
def test_limits_apply_to_each_dataset_of_a_list_and_messages_name_the_list(
    others: list[Values],
) -> None:
    rows = [*others, {"source": "hf://evil/data"}]
    listed = [{"name": f"d{at}", "format": "text", **each} for at, each in enumerate(rows)]
    found = resolve({"model": SPEC["model"], "datasets": listed}, builtin_defaults())
    limits = Limits.model_validate({"sources": {"allow": ["hf://org/.*"], "deny": []}})
    (violation,) = violations(found.spec, limits, listed=found.listed)
    assert violation.message.startswith('spec.datasets: "hf://evil/data" is not allowed.')
