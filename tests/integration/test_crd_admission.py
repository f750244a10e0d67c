"""What the API server refuses and accepts, and that Python refuses and accepts the same."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.integration.controlplane import ApiError, ControlPlane
from tests.integration.manifest_files import (
    EXAMPLES,
    INVALID,
    VALID,
    documents,
    expected,
    kubectl,
)

from finetune_api.crd.definition import custom_resource_definition
from finetune_api.defaulting import InvalidSpec, builtin_defaults, resolve
from finetune_api.v1alpha1.spec import FineTuneJobSpec


def _name(file: Path) -> str:
    return file.stem


def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = custom_resource_definition()["spec"]["versions"][0]["schema"]
    return schema["openAPIV3Schema"]  # type: ignore[no-any-return]


def _rules(schema: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield path, CEL and message of every rule in a schema."""
    if isinstance(schema, dict):
        for rule in schema.get("x-kubernetes-validations", ()):
            yield path, rule["rule"], rule["message"]
        for key, value in schema.items():
            step = "" if key in ("properties", "items", "additionalProperties") else f".{key}"
            yield from _rules(value, path + step)


RULES = list(_rules(_schema()))
MESSAGES = {message for _, cel, message in RULES if "oldSelf" not in cel}


@pytest.fixture(scope="module")
def answers(control_plane: ControlPlane) -> dict[str, str]:
    """What ``kubectl apply`` said of each invalid manifest; empty where it took it."""
    said = {}
    for file in INVALID:
        done = kubectl(control_plane, "apply", "--dry-run=server", "-f", str(file))
        said[file.stem] = done.stderr if done.returncode else ""
    return said


def test_there_are_enough_manifests() -> None:
    assert len(INVALID) >= 65
    assert len(VALID) >= 12
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("file", INVALID, ids=_name)
def test_invalid_is_refused_with_the_expected_message(file: Path, answers: dict[str, str]) -> None:
    assert expected(file) in answers[file.stem]


# The name is the API server's to check: the models know the spec alone.
@pytest.mark.parametrize(
    "file", [file for file in INVALID if not file.stem.startswith("name-")], ids=_name
)
def test_python_refuses_it_too(file: Path) -> None:
    (job,) = documents(file)
    with pytest.raises(ValidationError) as refusal:
        # Strict, since JSON has its types; an administrator's YAML is read more kindly.
        FineTuneJobSpec.model_validate(job.get("spec"), strict=True)
    # "dataset.s3" is another field than "evaluation.dataset.s3".
    said = re.compile(rf"(?<![\w.]){re.escape(expected(file))}")
    for message in MESSAGES:
        if said.search(message):
            assert message in str(refusal.value)


def test_every_rule_of_the_api_is_tried(answers: dict[str, str]) -> None:
    """A rule without a manifest that breaks it may be one that nothing breaks."""
    said = "\n".join(answers.values())
    assert {message for message in MESSAGES if message not in said} == set()


def test_every_rule_says_what_to_do() -> None:
    """Words that tell the way out; "invalid value" alone is none."""
    words = ("remove", "set", "write", "use", "such as", "lower", "leave", "take", "change", "only")
    assert [said for _, _, said in RULES if not any(word in said for word in words)] == []


@pytest.mark.parametrize("file", VALID, ids=_name)
def test_valid_is_accepted(file: Path, control_plane: ControlPlane) -> None:
    done = kubectl(control_plane, "apply", "--dry-run=server", "-f", str(file))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", VALID, ids=_name)
def test_python_accepts_it_too(file: Path) -> None:
    (job,) = documents(file)
    FineTuneJobSpec.model_validate(job["spec"], strict=True)
    resolve(job["spec"], builtin_defaults())


@pytest.mark.parametrize("file", EXAMPLES, ids=_name)
def test_example_is_accepted(file: Path, control_plane: ControlPlane) -> None:
    for found in documents(file):
        space = found["metadata"].get("namespace", "default")
        if space != "default":
            created = kubectl(control_plane, "create", "namespace", space)
            assert created.returncode == 0 or "already exists" in created.stderr, created.stderr
    done = kubectl(control_plane, "apply", "--dry-run=server", "-f", str(file))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", EXAMPLES, ids=_name)
def test_example_can_be_resolved(file: Path) -> None:
    jobs = [found for found in documents(file) if found["kind"] == "FineTuneJob"]
    assert jobs
    for job in jobs:
        resolve(job["spec"], builtin_defaults())


def _job(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "hf://org/model"},
            "dataset": {"source": "hf://org/data", "format": "alpaca"},
            **spec,
        },
    }


def _path(namespace: str, name: str = "") -> str:
    return f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs/{name}".rstrip("/")


def test_a_volume_grows_but_does_not_shrink(control_plane: ControlPlane, namespace: str) -> None:
    path = _path(namespace, "grows")
    control_plane.post(_path(namespace), _job("grows", storage={"size": "60Gi"}))
    control_plane.merge(path, {"spec": {"storage": {"size": "120Gi"}}})
    control_plane.merge(path, {"spec": {"storage": {"size": "122880Mi"}}})
    with pytest.raises(ApiError, match="a volume cannot shrink: leave"):
        control_plane.merge(path, {"spec": {"storage": {"size": "60Gi"}}})
    with pytest.raises(ApiError, match="write a quantity such as") as refusal:
        control_plane.merge(path, {"spec": {"storage": {"size": "200GB"}}})
    assert "evaluation" not in str(refusal.value)


def test_a_new_job_does_not_pass_for_a_current_one(
    control_plane: ControlPlane, namespace: str
) -> None:
    created = control_plane.post(_path(namespace), _job("fresh"))
    assert created["status"] == {"observedGeneration": -1}
    assert created["metadata"]["generation"] == 1


def test_nothing_but_the_status_has_a_default(control_plane: ControlPlane, namespace: str) -> None:
    """A default of the schema would change every stored spec of a fleet with an upgrade."""
    job = _job("plain")
    assert control_plane.post(_path(namespace), job)["spec"] == job["spec"]
    name = "finetunejobs.finetune.dev"
    stored = control_plane.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
    schema = stored["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert list(_defaults(schema)) == [".status"]


def _defaults(schema: Any, path: str = "") -> Iterator[str]:
    if isinstance(schema, dict):
        if "default" in schema and "description" in schema:
            yield path
        for key, value in schema.items():
            yield from _defaults(value, path if key == "properties" else f"{path}.{key}")


def test_the_status_is_the_operators(control_plane: ControlPlane, namespace: str) -> None:
    """Users' writes leave the status alone, the operator's leave the spec and its generation."""
    path = _path(namespace, "shared")
    control_plane.post(_path(namespace), _job("shared"))
    control_plane.merge(path, {"status": {"endpoint": "http://elsewhere"}})
    written = control_plane.merge(f"{path}/status", {"status": {"revision": "ab12cd34"}})
    assert "endpoint" not in written["status"]
    assert written["status"]["revision"] == "ab12cd34"
    assert written["metadata"]["generation"] == 1


def test_columns_show_the_state(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.post(_path(namespace), _job("shown"))
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "Training",
        "message": "step 12 of 60",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    progress = {"progressPercent": 20, "loss": "1.25", "etaSeconds": 90}
    status = {"observedGeneration": 1, "conditions": [ready], "training": progress}
    control_plane.merge(_path(namespace, "shown") + "/status", {"status": status})

    shown = kubectl(control_plane, "get", "ftj", "-n", namespace).stdout.splitlines()
    assert shown[0].split() == ["NAME", "READY", "STATE", "PROGRESS", "LOSS", "ETA", "AGE"]
    assert shown[1].split()[:-1] == ["shown", "False", "Training", "20", "1.25", "90"]
    wide = kubectl(control_plane, "get", "finetune", "-n", namespace, "-o", "wide").stdout
    assert wide.split("\n")[0].split()[-5:] == [
        "MODEL",
        "DATASET",
        "REVISION",
        "ENDPOINT",
        "MESSAGE",
    ]
    assert "step 12 of 60" in wide


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("ftj", "tunes a language model with QLoRA on one GPU"),
        ("ftj.spec.training", "Highest learning rate. Built-in value: 0.0002."),
        ("ftj.spec.training.lora.r", "An edit starts a new revision, which trains again."),
        ("ftj.spec.resources.serve.limits", "An edit rolls the serving pods"),
        ("ftj.spec.resources.train", "{cpu: 2, memory: 12Gi}"),
        ("ftj.spec.training.advanced.quantization.type", "ENUM: nf4 fp4"),
        ("ftj.status.revisions", "The ledger"),
    ],
)
def test_explain_reads_like_documentation(
    path: str, said: str, control_plane: ControlPlane
) -> None:
    done = kubectl(control_plane, "explain", path)
    assert said in " ".join(done.stdout.split()), done.stdout + done.stderr


def test_an_invalid_spec_is_explained_by_python() -> None:
    """What slips past the schema is refused with field, value and way out all the same."""
    (job,) = documents(next(file for file in INVALID if file.stem == "lora-r-zero"))
    with pytest.raises(InvalidSpec, match=r"^spec\.training\.lora\.r: .* \(it is 0\)$"):
        resolve(job["spec"], builtin_defaults())
