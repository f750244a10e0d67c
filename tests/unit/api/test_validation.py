"""Validation of manifests without a cluster.

The integration tests apply the same manifests to a real API server.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from tests.support.leaves import Leaf, leaves

from finetune_api import API_VERSION, KIND
from finetune_api.validation import findings, is_job, resource_of
from finetune_cli.offline import job_file

MANIFESTS = Path(__file__).parents[2] / "integration" / "manifests"
SPEC: dict[str, Any] = {
    "model": {"source": "hf://org/model"},
    "dataset": {"source": "hf://org/rows", "format": "alpaca"},
}


LISTS = ("datasets", "tolerations")


def snake_case(name: str) -> str:
    return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


def job(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "support"},
        "spec": SPEC | spec,
    }


def found(manifest: dict[str, Any]) -> dict[str, str]:
    return {each.field: str(each).partition(": ")[2] for each in findings(manifest)}


def manifests(kind: str) -> list[Path]:
    files = sorted((MANIFESTS / kind).glob("*.yaml"))
    assert files
    return files


@pytest.mark.parametrize("file", manifests("valid"), ids=lambda file: file.stem)
def test_manifest_that_the_api_server_accepts_has_no_finding(file: Path) -> None:
    for document in job_file.load(file):
        assert findings(document) == []


@pytest.mark.parametrize("file", manifests("invalid"), ids=lambda file: file.stem)
def test_manifest_that_the_api_server_rejects_has_findings(file: Path) -> None:
    for document in job_file.load(file):
        errors = findings(document)
        assert errors
        assert not [each for each in errors if "Input should" in each.message]


def test_all_errors_are_listed_with_field_value_and_remediation() -> None:
    assert found(
        job(
            model={"source": "hf://org/model", "revison": "main"},
            dataset={"source": "hf://org", "format": "alpac", "maxSamples": 0},
            training={"epochs": "3", "lora": {"useDora": True}},
            serving={"mode": "adapter"},
            placement={"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
            nonsense=1,
        )
    ) == {
        "spec.model.revison": "unknown field: did you mean revision?",
        "spec.dataset.format": "set one of 'auto', 'alpaca', 'messages', 'sharegpt', "
        "'prompt-completion' or 'text' (value: 'alpac')",
        "spec.dataset.maxSamples": "set a value of at least 1 (value: 0)",
        "spec.dataset.source": "write the dataset's source as hf://org/name, pvc://claim/path, "
        "s3://bucket/path, configmap://name/key (a small JSONL file) or https://host/path "
        "(value: 'hf://org')",
        "spec.training.epochs": "set a number (value: '3')",
        "spec.placement.tolerations[0]": "a toleration with operator: Exists has no value: remove "
        "value, or set operator: Equal",
        "spec.nonsense": "unknown field: remove it",
    }


def test_each_field_in_snake_case_is_listed_with_its_name_next_to_other_errors() -> None:
    training = {
        "learning_rate": 0.1,
        "max_steps": 10,
        "effective_batch_size": 3,
        "epochs": "3",
        "advanced": {"micro_batch_size": 2},
        "lora": {"target_modules": ["q_proj"]},
    }
    assert found(job(training=training)) == {
        "spec.training.learning_rate": "unknown field: did you mean learningRate?",
        "spec.training.max_steps": "unknown field: did you mean maxSteps?",
        "spec.training.effective_batch_size": "unknown field: did you mean effectiveBatchSize?",
        "spec.training.epochs": "set a number (value: '3')",
        "spec.training.advanced.micro_batch_size": "unknown field: did you mean microBatchSize?",
        "spec.training.lora.target_modules": "unknown field: did you mean targetModules?",
    }


SNAKE_CASE = [leaf for leaf in leaves() if snake_case(leaf.path[-1]) != leaf.path[-1]]


@pytest.mark.parametrize("leaf", SNAKE_CASE, ids=str)
def test_each_field_is_suggested_for_its_name_in_snake_case(leaf: Leaf) -> None:
    *groups, name = leaf.path
    values: Any = {snake_case(name): "x"}
    for group in reversed(groups):
        values = {group: [values] if group in LISTS else values}
    path = "".join(f".{each}[0]" if each in LISTS else f".{each}" for each in groups)
    messages = found(job(**values))
    assert messages[f"spec{path}.{snake_case(name)}"] == f"unknown field: did you mean {name}?"


def test_every_broken_rule_of_a_group_is_listed() -> None:
    spec = job(
        training={"lora": {"useDora": True}, "advanced": {"evalSteps": 5}},
        dataset=SPEC["dataset"] | {"validationFraction": 0},
        serving={"mode": "adapter"},
    )
    messages = [each.message for each in findings(spec)]
    assert len(messages) == 2
    assert "vLLM cannot load a DoRA adapter" in messages[0]
    assert "evalSteps needs held-out rows" in messages[1]


def test_rule_is_not_checked_over_a_field_of_the_wrong_type() -> None:
    serving = {"mode": 1}
    assert [*found(job(serving=serving, training={"lora": {"useDora": True}}))] == [
        "spec.serving.mode"
    ]


def test_null_means_that_a_field_is_not_set() -> None:
    assert findings(job(serving=None, training={"epochs": None})) == []


def test_head_of_the_manifest_is_checked() -> None:
    manifest = {
        "apiVersion": "finetune.dev/v1",
        "kind": "FinetuneJob",
        "metadata": {"name": "Support_1"},
        "sepc": {},
    }
    assert is_job(manifest)
    errors = found(manifest)
    assert errors["apiVersion"] == f"set {API_VERSION} (value: 'finetune.dev/v1')"
    assert errors["kind"] == f"set {KIND} (value: 'FinetuneJob')"
    assert errors["sepc"] == "unknown field: did you mean spec?"
    assert errors["spec"] == "is missing: set it"
    assert "at most 40 lower-case letters" in errors["metadata.name"]
    assert errors["metadata.name"].endswith("(value: 'Support_1')")


@pytest.mark.parametrize("name", ["a" * 41, "1a", "a-", "a\n", 5])
def test_invalid_name_is_found(name: Any) -> None:
    assert [*found(job() | {"metadata": {"name": name}})] == ["metadata.name"]


def test_missing_name_is_found() -> None:
    without_name: list[Any] = [{}, None, "support"]
    for metadata in without_name:
        assert found(job() | {"metadata": metadata}) == {"metadata.name": "is missing: set it"}


def test_spec_must_be_a_group_of_fields() -> None:
    assert found(job() | {"spec": []}) == {"spec": "set a group of fields (value: [])"}


@pytest.mark.parametrize(
    ("kind", "name", "spec", "error"),
    [
        (
            "FineTuneEndpoint",
            "chat",
            {"model": {"source": "hf://org/model"}, "lora": {"maxAdapter": 2}},
            "spec.lora.maxAdapter: unknown field: did you mean maxAdapters?",
        ),
        (
            "FineTuneEndpoint",
            "Chat",
            {"model": {"source": "hf://org/model"}},
            "metadata.name: metadata.name is part of the name of a Service: use at most 40 "
            "lower-case letters, digits and '-', starting with a letter and ending with a letter "
            "or digit (value: 'Chat')",
        ),
        (
            "FineTuneBudget",
            "team",
            {"period": "Monthly", "namespaceSelector": {}},
            "spec.period: set one of 'Day', 'Week' or 'Month' (value: 'Monthly')",
        ),
        (
            "FineTuneProfile",
            "starter",
            {"defaults": {"training": {"epohs": 3}}},
            "spec.defaults.training.epohs: unknown field; remove it, or use an operator version "
            "that supports it (it is 3)",
        ),
        (
            "FineTuneProfile",
            "starter",
            {
                "defaults": {"training": {"sequenceLength": 4096}},
                "limits": {"maxSequenceLength": 2048},
            },
            "spec.defaults: spec.training.sequenceLength: 4096 is not allowed. At most 2048 is "
            "allowed (limits.maxSequenceLength of FineTuneProfile starter). Set an allowed value, "
            "or ask your cluster administrator to allow this one.",
        ),
        (
            "FineTuneProfile",
            "starter",
            {"limits": {"queues": {"allow": ["team-("]}}},
            "spec.limits.queues.allow[0]: pattern 'team-(' is invalid at character 7: use letters, "
            "digits, '.', classes such as [a-z], groups, '|', '*', '+' and '?', and write \\ "
            "before other punctuation",
        ),
        (
            "FineTuneProfile",
            "a" * 64,
            {},
            "metadata.name: jobs name the profile in spec.profile: use at most 63 characters in "
            f"metadata.name (value: '{'a' * 64}')",
        ),
        (
            "FineTuneEndpont",
            "chat",
            {"model": {"source": "hf://org/model"}},
            "kind: set FineTuneEndpoint (value: 'FineTuneEndpont')",
        ),
    ],
)
def test_objects_of_other_kinds_are_checked_by_their_own_schema(
    kind: str, name: str, spec: dict[str, Any], error: str
) -> None:
    manifest = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    assert not is_job(manifest)
    assert error in [*map(str, findings(manifest))]


def test_long_value_is_shortened() -> None:
    (finding,) = findings(job(rerun="x" * 1000))
    assert len(finding.value) == 80
    assert finding.value.endswith("…")


def test_other_objects_are_not_jobs() -> None:
    assert not is_job({"apiVersion": "v1", "kind": "ConfigMap"})
    assert resource_of({"apiVersion": "v1", "kind": "ConfigMap"}) is None
    assert is_job({"kind": KIND})


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        ({"model": {"source": "hf://org/" + "a" * 5000}}, "spec.model.source", "at most"),
        ({"training": {"epochs": 0}}, "spec.training.epochs", "set a value"),
        ({"training": {"learningRate": "fast"}}, "spec.training.learningRate", "set a number"),
        ({"training": {"seed": "one"}}, "spec.training.seed", "set an integer"),
        ({"suspend": "perhaps"}, "spec.suspend", "set true or false"),
        ({"training": 3}, "spec.training", "set a group of fields"),
        (
            {"serving": {"extraArgs": ["--max-num-seqs=8", "--trust-remote-code"]}},
            "spec.serving.extraArgs[1]",
            "such as --max-num-seqs=64. docs/concepts/serving.md lists the permitted arguments "
            "(value: '--trust-remote-code')",
        ),
    ],
)
def test_message_of_a_rejected_value_is_ours(spec: dict[str, Any], field: str, says: str) -> None:
    assert says in found(job(**spec))[field]


def test_manifest_of_an_existing_job_with_its_status_is_valid() -> None:
    assert findings(job() | {"status": {"observedGeneration": 1}}) == []


def test_a_message_does_not_repeat_a_whole_group() -> None:
    assert found(job(training={"epochs": {"of": 3}})) == {"spec.training.epochs": "set a number"}
