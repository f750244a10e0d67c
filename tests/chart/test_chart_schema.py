"""What values the chart refuses: a mistyped key must not pass for a default."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.chart.helm import CHART, Refused, Values, render

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
# What Kubernetes or the operator defines, and checks, itself.
FREE = {
    "global",
    "defaults",
    "affinity.nodeAffinity",
    "affinity.podAffinity",
    "affinity.podAntiAffinity",
    "networkPolicy.metricsFrom[].namespaceSelector",
    "networkPolicy.metricsFrom[].podSelector",
    "networkPolicy.metricsFrom[].ipBlock",
}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicaCount": 2}, "additional properties 'replicaCount' not allowed"),
        ({"replicas": 0}, "minimum: got 0, want 1"),
        ({"namespaces": "team-a"}, "got string, want array"),
        ({"namespaces": ["Team_A"]}, "does not match pattern"),
        ({"image": {"name": "x"}}, "additional properties 'name' not allowed"),
        ({"trainer": {"tag": "v1"}}, "additional properties 'tag' not allowed"),
        ({"serving": {"gpus": 2}}, "additional properties 'gpus' not allowed"),
        ({"crds": {"install": True}}, "additional properties 'install' not allowed"),
        ({"crds": {"keep": "yes"}}, "got string, want boolean"),
        ({"rbac": {"aggregateRoles": 1}}, "got number, want boolean"),
        ({"image": {"repository": ""}}, "minLength: got 0, want 1"),
        ({"image": {"tag": "v1@sha256:0"}}, "does not match pattern"),
        ({"image": {"tag": 1.0}}, "got number, want string"),
        ({"image": {"digest": "sha256:123"}}, "does not match pattern"),
        ({"image": {"pullPolicy": "Sometimes"}}, "value must be one of 'Always', 'IfNotPresent'"),
        ({"imagePullSecrets": [{"name": "registry"}]}, "got object, want string"),
        ({"serving": {"image": "vllm/vllm-openai"}}, "does not match pattern"),
        ({"serving": {"command": []}}, "minItems: got 0, want 1"),
        ({"serving": {"command": "vllm serve"}}, "got string, want array"),
        ({"serving": {"args": [8]}}, "got number, want string"),
        ({"serving": {"env": {"THREADS": 4}}}, "got number, want string"),
        ({"serving": {"dtype": "int8"}}, "value must be one of"),
        ({"serving": {"shmSize": "2GB"}}, "does not match pattern"),
        ({"hub": {"endpoint": "mirror.example.com"}}, "does not match pattern"),
        ({"defaults": ["storage"]}, "got array, want object"),
        ({"logLevel": "loud"}, "value must be one of 'debug'"),
        ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "does not match pattern"),
        ({"metrics": {"namespace": "monitoring"}}, "additional properties 'namespace' not allowed"),
        ({"metrics": {"namespaces": ["Monitoring"]}}, "does not match pattern"),
        ({"egress": {"cidrs": ["10.0.0.1"]}}, "does not match pattern"),
        ({"egress": {"ports": ["https"]}}, "got string, want integer"),
        ({"egress": {"dns": {"ports": []}}}, "minItems: got 0, want 1"),
        ({"egress": {"allow": []}}, "additional properties 'allow' not allowed"),
        ({"networkPolicy": {"apiServerPorts": [0]}}, "minimum: got 0, want 1"),
        (
            {"networkPolicy": {"metricsFrom": [{"selector": {}}]}},
            "additional properties 'selector'",
        ),
        ({"resources": {"limits": {"memory": "512MB"}}}, "does not match pattern"),
        ({"resources": {"claims": []}}, "additional properties 'claims' not allowed"),
        ({"tolerations": [{"operator": "Has"}]}, "value must be one of 'Exists', 'Equal'"),
        ({"nodeSelector": {"gpu": True}}, "got boolean, want string"),
        ({"fullnameOverride": "7b"}, "does not match pattern"),
    ],
)
def test_refused(values: Values, said: str) -> None:
    with pytest.raises(Refused) as refusal:
        render(values)
    assert "values don't meet the specifications of the schema" in str(refusal.value)
    assert said in str(refusal.value)


def _objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema of an object with where it stands."""
    if reference := schema.get("$ref"):
        schema = SCHEMA["definitions"][reference.rsplit("/", 1)[-1]]
    if schema.get("type") == "object":
        yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from _objects(inner, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from _objects(schema["items"], f"{path}[]")


def test_only_free_form_maps_take_unknown_keys() -> None:
    free = {path for path, found in _objects(SCHEMA) if "additionalProperties" not in found}
    assert free == FREE


def test_schema_and_values_name_the_same_keys() -> None:
    def keys(values: Values, path: str = "") -> set[str]:
        found = set()
        for key, value in values.items():
            found.add(path + key)
            if isinstance(value, dict) and path + key != "defaults":
                found |= keys(value, f"{path}{key}.")
        return found

    def properties(schema: dict[str, Any], path: str = "") -> set[str]:
        found = set()
        for name, inner in schema.get("properties", {}).items():
            found.add(path + name)
            found |= properties(inner, f"{path}{name}.")
        return found

    written = keys(yaml.safe_load((CHART / "values.yaml").read_text()))
    known = properties(SCHEMA) - {"global"}
    # The parts of an affinity, and the amounts of a resource, are not there by default.
    parts = {f"affinity.{kind}" for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")}
    amounts = {key for key in written if key.startswith("resources.") and key.count(".") == 2}
    assert known - parts == written - amounts
