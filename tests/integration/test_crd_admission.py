"""The API server and the Python models accept and reject the same manifests."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.api_server.controlplane import ApiError, ControlPlane
from tests.support.api_server.manifest_files import (
    EXAMPLES,
    INVALID,
    VALID,
    documents,
    expected,
    kubectl,
    printed_jobs,
)

from finetune_api import GROUP
from finetune_api.crd.definition import custom_resource_definition
from finetune_api.crd.resources import FINETUNEJOB
from finetune_api.defaulting import InvalidSpec, builtin_defaults, resolve
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.validation import findings


def _name(file: Path) -> str:
    return file.stem


def _schema() -> dict[str, Any]:
    (version,) = custom_resource_definition(FINETUNEJOB)["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]  # type: ignore[no-any-return]


def _rules(schema: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield path, CEL and message of every rule in a schema."""
    if isinstance(schema, dict):
        for rule in schema.get("x-kubernetes-validations", ()):
            yield path, rule["rule"], rule["message"]
        for key, value in schema.items():
            step = "" if key in ("properties", "items", "additionalProperties") else f".{key}"
            yield from _rules(value, path + step)


def _fields(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the path of every field below a schema that is not an object."""
    schema = schema["items"] if "properties" in schema.get("items", {}) else schema
    if "properties" not in schema:
        yield path
    for name, inner in schema.get("properties", {}).items():
        yield from _fields(inner, f"{path}.{name}")


def _written(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every value below a value."""
    yield path
    for inner in value if isinstance(value, list) else ():
        yield from _written(inner, path)
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield from _written(inner, f"{path}.{name}")


PRINTED = printed_jobs()
RULES = list(_rules(_schema()))
MESSAGES = {message for _, cel, message in RULES if "oldSelf" not in cel}


@pytest.fixture(scope="module")
def rejections(control_plane: ControlPlane) -> dict[str, str]:
    """Return the error of each invalid manifest; empty if it is accepted."""
    return {file.stem: rejection(control_plane, file) for file in INVALID}


def rejection(plane: ControlPlane, file: Path) -> str:
    """Create the job of a manifest as kubectl does, without storing it; return the error.

    Hundreds of processes of kubectl would need a minute of CPU time.
    """
    (job,) = documents(file)
    path = _path(job["metadata"].get("namespace", "default"))
    try:
        plane.post(f"{path}?dryRun=All&fieldValidation=Strict", job)
    except ApiError as error:
        return str(error)
    return ""


def test_every_field_of_the_spec_is_set_in_a_valid_manifest() -> None:
    """Every new field needs a manifest. The list of valid manifests is therefore never empty."""
    written = {
        path
        for file in (*VALID, *EXAMPLES)
        for job in documents(file)
        if job["kind"] == "FineTuneJob"
        for path in _written(job["spec"])
    }
    assert set(_fields(_schema()["properties"]["spec"])) - written == set()


@pytest.mark.parametrize("file", INVALID, ids=_name)
def test_api_server_rejects_invalid_manifest(file: Path, rejections: dict[str, str]) -> None:
    assert expected(file) in rejections[file.stem]


def test_rejection_of_a_list_names_the_item(rejections: dict[str, str]) -> None:
    error = rejections["serving-extra-argument-unlisted"]
    assert "spec.serving.extraArgs[1]: Invalid value" in error
    assert "spec.serving.extraArgs[0]" not in error


# The models do not contain metadata.name; only the API server validates it.
@pytest.mark.parametrize(
    "file", [file for file in INVALID if not file.stem.startswith("name-")], ids=_name
)
def test_python_rejects_invalid_manifest(file: Path) -> None:
    (job,) = documents(file)
    with pytest.raises(ValidationError) as rejection:
        # Like the API server, these rules do not convert types; only chart defaults are converted.
        FineTuneJobSpec.model_validate(job.get("spec"), strict=True)
    # "dataset.s3" and "evaluation.dataset.s3" are different fields.
    said = re.compile(rf"(?<![\w.]){re.escape(expected(file))}")
    for message in MESSAGES:
        if said.search(message):
            assert message in str(rejection.value)


def test_readme_prints_a_job() -> None:
    assert "README.md#0.0" in PRINTED


def test_every_rule_is_broken_by_an_invalid_manifest(rejections: dict[str, str]) -> None:
    """A rule that no manifest breaks could be a rule that is always true."""
    said = "\n".join(rejections.values())
    assert {message for message in MESSAGES if message not in said} == set()


def test_every_rule_message_contains_an_instruction() -> None:
    """The message contains a verb of a remediation as a whole word, so "dataset" is not "set"."""
    verbs = re.compile(r"\b(remove|set|write|use|lower|raise|keep|change)\b")
    assert [message for _, _, message in RULES if not verbs.search(message)] == []


@pytest.mark.parametrize("file", VALID, ids=_name)
def test_api_server_accepts_valid_manifest(file: Path, control_plane: ControlPlane) -> None:
    assert rejection(control_plane, file) == ""


@pytest.mark.parametrize("file", VALID, ids=_name)
def test_python_accepts_valid_manifest(file: Path) -> None:
    (job,) = documents(file)
    FineTuneJobSpec.model_validate(job["spec"], strict=True)
    resolve(job["spec"], builtin_defaults())


@pytest.mark.parametrize("file", EXAMPLES, ids=_name)
def test_api_server_accepts_example(file: Path, control_plane: ControlPlane) -> None:
    for found in documents(file):
        space = found["metadata"].get("namespace", "default")
        if space != "default":
            created = kubectl(control_plane, "create", "namespace", space)
            assert created.returncode == 0 or "already exists" in created.stderr, created.stderr
    done = kubectl(control_plane, "apply", "--dry-run=server", "-f", str(file))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", PRINTED)
def test_api_server_accepts_job_of_readme_and_docs(
    place: str, control_plane: ControlPlane, namespace: str
) -> None:
    created = control_plane.post(_path(namespace), PRINTED[place])
    assert created["spec"] == PRINTED[place]["spec"]


@pytest.mark.parametrize("file", EXAMPLES, ids=_name)
def test_example_is_valid_without_a_cluster(file: Path) -> None:
    own = [found for found in documents(file) if found["apiVersion"].split("/")[0] == GROUP]
    assert own
    assert [findings(manifest) for manifest in own] == [[]] * len(own)


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


def test_volume_can_grow_but_not_shrink(control_plane: ControlPlane, namespace: str) -> None:
    path = _path(namespace, "grows")
    control_plane.post(_path(namespace), _job("grows", storage={"size": "60Gi"}))
    control_plane.merge(path, {"spec": {"storage": {"size": "120Gi"}}})
    control_plane.merge(path, {"spec": {"storage": {"size": "122880Mi"}}})
    with pytest.raises(ApiError, match="a volume cannot shrink: keep"):
        control_plane.merge(path, {"spec": {"storage": {"size": "60Gi"}}})
    with pytest.raises(ApiError, match="write a quantity such as") as refusal:
        control_plane.merge(path, {"spec": {"storage": {"size": "200GB"}}})
    assert "evaluation" not in str(refusal.value)


def test_new_job_does_not_count_as_reconciled(control_plane: ControlPlane, namespace: str) -> None:
    created = control_plane.post(_path(namespace), _job("fresh"))
    assert created["status"] == {"observedGeneration": -1}
    assert created["metadata"]["generation"] == 1


def test_api_server_adds_no_defaults_to_the_spec(
    control_plane: ControlPlane, namespace: str
) -> None:
    """With schema defaults in the CRD, an upgrade would change every stored spec."""
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


def test_status_is_a_subresource(control_plane: ControlPlane, namespace: str) -> None:
    """A write of the job ignores the status; a write of the status ignores the spec."""
    path = _path(namespace, "shared")
    control_plane.post(_path(namespace), _job("shared"))
    control_plane.merge(path, {"status": {"endpoint": "http://elsewhere"}})
    written = control_plane.merge(f"{path}/status", {"status": {"revision": "ab12cd34"}})
    assert "endpoint" not in written["status"]
    assert written["status"]["revision"] == "ab12cd34"
    assert written["metadata"]["generation"] == 1


def test_printer_columns(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.post(_path(namespace), _job("shown"))
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "Training",
        "message": "step 12 of 60",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {
        "observedGeneration": 1,
        "conditions": [ready],
        "training": {"loss": "1.25"},
        "serving": {"summary": "a1b2c3d4 (old)"},
        "progress": "train 20%",
        "eta": "1m30s",
        "summary": "step 12 of 60",
        "warningCount": 2,
    }
    control_plane.merge(_path(namespace, "shown") + "/status", {"status": status})

    shown = kubectl(control_plane, "get", "ftj", "-n", namespace).stdout.splitlines()
    assert shown[0].split() == [
        "NAME",
        "READY",
        "STATE",
        "SERVING",
        "PROGRESS",
        "ETA",
        "LOSS",
        "AGE",
    ]
    values = ["shown", "False", "Training", "a1b2c3d4", "(old)", "train", "20%", "1m30s", "1.25"]
    assert shown[1].split()[:-1] == values
    wide = kubectl(control_plane, "get", "finetune", "-n", namespace, "-o", "wide").stdout
    assert wide.split("\n")[0].split()[-2:] == ["COST", "MESSAGE"]
    assert wide.split("\n")[1].split()[-5:] == ["2", "step", "12", "of", "60"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("ftj", "fine-tunes a language model with QLoRA on one GPU"),
        ("ftj.spec.training", "Peak learning rate. Default: 0.0002."),
        ("ftj.spec.training.lora.r", "Changing this field trains a new revision."),
        (
            "ftj.spec.resources.serve.limits",
            "Changing this field replaces the serving pods in a rollout.",
        ),
        ("ftj.spec.resources.train", "{cpu: 2, memory: 12Gi}"),
        ("ftj.spec.training.advanced.quantization.type", "ENUM: nf4 fp4"),
        ("ftj.status.revisions", "Ledger of revisions, their attempts and artifacts."),
    ],
)
def test_kubectl_explain_shows_description_default_and_effect(
    path: str, said: str, control_plane: ControlPlane
) -> None:
    done = kubectl(control_plane, "explain", path)
    assert said in " ".join(done.stdout.split()), done.stdout + done.stderr


def test_invalid_spec_error_names_field_and_value() -> None:
    """Python rejects a spec that the schema of an older CRD accepts."""
    (job,) = documents(next(file for file in INVALID if file.stem == "lora-r-zero"))
    with pytest.raises(InvalidSpec, match=r"^spec\.training\.lora\.r: .* \(it is 0\)$"):
        resolve(job["spec"], builtin_defaults())
