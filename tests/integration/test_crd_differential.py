"""The API server and the Python models accept and reject the same random specs.

A random spec is a valid spec with a few fields set to values at, near and beyond their bounds. The
values come from the schema of the CRD, so a new field needs no new test.
"""

from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.support.api_server.controlplane import ApiError, ControlPlane

from finetune_api.crd.definition import custom_resource_definition
from finetune_api.crd.resources import FINETUNEJOB
from finetune_api.v1alpha1.spec import FineTuneJobSpec

Path = tuple[str, ...]
DRY_RUN = (
    "/apis/finetune.dev/v1alpha1/namespaces/default/finetunejobs?dryRun=All&fieldValidation=Strict"
)
TEXTS = (
    "", "a", "train", "main", "hf-token", "Token", "a.b", "a..b", ".a", "a.", "a_b", "a b", "a/b",
    "a\n", "ä", "a" * 63, "a" * 64, "a" * 254, "example.com/pool", "example.com/", "/pool",
    "hf://org/name", "hf://org/name/more", "hf://org/", "hf://-/a", "hf://org/a b", "hf://o/a\n",
    "configmap://rows/rows.jsonl", "configmap://rows", "configmap://Rows/x", "configmap://a/b/c",
)  # fmt: skip
QUANTITIES = (
    "0", "1", "-1", "+1", "1.5", "1.", ".5", ".", "", "1e3", "1E3", "1e-3", "1e", "1E", "1Ei",
    "100m", "5n", "5u", "2k", "2K", "2Ki", "16Gi", "16GiB", "16G", "16GB", "0x1", "1 Gi", "Gi",
    "1_000", "e3", "1e99999999999", "9" * 28, " 1", "١", 0, 1, -1, 60, 1.5, True,
)  # fmt: skip
LABELS = ("a", "", "A10G", "-a", "a-", "a b", "a/b", "a" * 63, "a" * 64, "ä", "a\n")
KEYS = (
    "a", "example.com/a", "a/", "/a", "a/b/c", "A_b", "Example.com/a", "a" * 64, "nvidia.com/gpu",
    "cpu", "memory", "finetune.dev/job", "a b", "",
)  # fmt: skip
MODULES = ("q_proj", "all-linear", "lm_head", "a b", "", "a" * 128, "a" * 129, ".*")

Spec = dict[str, Any]


def _leaves(schema: Spec, path: Path = ()) -> Iterator[tuple[Path, Spec]]:
    """Yield path and schema of every field below ``schema``."""
    for name, found in schema.get("properties", {}).items():
        yield (*path, name), found
        yield from _leaves(found, (*path, name))


def _values(schema: Spec, path: Path) -> st.SearchStrategy[Any]:
    """Draw valid and invalid values of a field."""
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        return st.sampled_from(QUANTITIES)
    if "enum" in schema:
        return st.sampled_from([*schema["enum"], "other"])
    if kind == "boolean":
        return st.sampled_from([True, False, "true", 1])
    if kind == "integer":
        low, high = schema.get("minimum", 0), schema.get("maximum", 10_000)
        near = [low - 1, low, low + 1, 8, high - 1, high, high + 1, "8", 1.5, True]
        return st.sampled_from(near)
    if kind == "number":
        near = [-1, 0, 0.0001, 0.05, 0.1, 0.5, 0.50001, 0.98, 0.99, 1, 1.5, 2, 1000, 1001, "0.5"]
        return st.sampled_from(near)
    if kind == "array":
        item = schema["items"]
        texts = st.sampled_from(MODULES if "targetModules" in path else LABELS)
        values: st.SearchStrategy[Any] = texts if item["type"] == "string" else _objects(item, path)
        full = values.map(lambda value: [value] * (schema["maxItems"] + 1))
        return st.lists(values, max_size=2) | full
    if "additionalProperties" in schema:
        item = schema["additionalProperties"]
        values = st.sampled_from(LABELS) if item.get("type") == "string" else _values(item, path)
        too_many = values.map(
            lambda value: {f"key-{n}": value for n in range(schema["maxProperties"] + 1)}
        )
        return st.dictionaries(st.sampled_from(KEYS), values, max_size=2) | too_many
    if kind == "object":
        return st.sampled_from([{}, {"unknown": 1}, [], "text"])
    return st.sampled_from([*TEXTS, 1, True])


def _objects(schema: Spec, path: Path) -> st.SearchStrategy[Spec]:
    fields = {name: _values(found, path) for name, found in schema["properties"].items()}
    return st.fixed_dictionaries({}, optional=fields)


LEAVES = dict(
    _leaves(
        custom_resource_definition(FINETUNEJOB)["spec"]["versions"][0]["schema"]["openAPIV3Schema"][
            "properties"
        ]["spec"]
    )
)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Draw a valid spec with up to three of its fields overwritten or added."""
    spec: Spec = {
        "model": {"source": "hf://org/model"},
        "dataset": {
            "source": draw(st.sampled_from(["hf://org/data", "configmap://rows/rows.jsonl"])),
            "format": draw(st.sampled_from(["alpaca", "messages", "prompt-completion", "text"])),
        },
    }
    target = draw(st.lists(st.sampled_from(sorted(LEAVES)), min_size=1, max_size=3, unique=True))
    for path in sorted(target, key=len):
        place = spec
        for step in path[:-1]:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                break
        if isinstance(place, dict):
            place[path[-1]] = draw(_values(LEAVES[path], path))
    return spec


@settings(
    max_examples=1000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(spec=specs())
def test_api_server_and_python_agree(control_plane: ControlPlane, spec: Spec) -> None:
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "tried"},
        "spec": spec,
    }
    server = python = "accepted"
    try:
        control_plane.post(DRY_RUN, job)
    except ApiError as rejection:
        if rejection.status not in (400, 422):
            raise
        server = f"rejected: {rejection}"
    try:
        FineTuneJobSpec.model_validate(spec, strict=True)
    except ValidationError as rejection:
        python = f"rejected: {rejection}"
    assert server.split(":")[0] == python.split(":")[0], f"server {server}\npython {python}"
