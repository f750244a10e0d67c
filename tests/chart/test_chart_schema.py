"""The schema of the values: a mistyped key or value is rejected, not ignored."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from tests.chart.schema_messages import printed
from tests.support.helm import CHART, RenderError, Values, render
from tests.support.patterns import PATTERNS

from finetune_api.defaulting import builtin_defaults, effective_defaults
from finetune_api.policy.patterns import MAX_LENGTH, matches

PEM = "-----BEGIN PUBLIC KEY-----"
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
# Objects that Kubernetes or the operator defines, and validates itself.
FREE_FORM = {
    "global",
    "affinity.nodeAffinity",
    "affinity.podAffinity",
    "affinity.podAntiAffinity",
    "extraEnv[].valueFrom",
    "podSecurityContext.appArmorProfile",
    "podSecurityContext.seLinuxOptions",
    "podSecurityContext.seccompProfile",
    "securityContext.appArmorProfile",
    "securityContext.capabilities",
    "securityContext.seLinuxOptions",
    "securityContext.seccompProfile",
}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replicas": 2}, "additional properties 'replicas' not allowed"),
        ({"replicaCount": 0}, "minimum: got 0, want 1"),
        ({"namespaces": ["team-a"]}, "additional properties 'namespaces' not allowed"),
        ({"watchNamespaces": "team-a"}, "got string, want array"),
        ({"watchNamespaces": ["Team_A"]}, "does not match pattern"),
        ({"extraEnv": {"A": "b"}}, "got object, want array"),
        ({"extraEnv": [{"value": "b"}]}, "missing property 'name'"),
        ({"extraEnv": [{"name": "A", "value": 1}]}, "got number, want string"),
        ({"extraEnv": [{"name": "POD_NAME", "value": "a"}]}, "at '/extraEnv/0/name': 'not' failed"),
        ({"podSecurityContext": {"runAsUser": "1000"}}, "got string, want integer"),
        ({"podSecurityContext": {"runAsUid": 1000}}, "additional properties 'runAsUid'"),
        ({"securityContext": {"privileged": True}}, "additional properties 'privileged'"),
        ({"image": {"name": "x"}}, "additional properties 'name' not allowed"),
        ({"image": {"repository": ""}}, "does not match pattern"),
        ({"image": {"repository": "registry.example.com/a:v1"}}, "does not match pattern"),
        ({"image": {"tag": "v1@sha256:0"}}, "does not match pattern"),
        ({"image": {"tag": 1.0}}, "got number, want string"),
        ({"image": {"digest": "sha256:123"}}, "does not match pattern"),
        ({"image": {"pullPolicy": "Sometimes"}}, "value must be one of 'Always', 'IfNotPresent'"),
        ({"page": {"urls": ["ftj.example.com"]}}, "does not match pattern"),
        ({"page": {"urls": ["https://ftj.example.com/page"]}}, "does not match pattern"),
        ({"imagePullSecrets": [{"name": "registry"}]}, "got object, want string"),
        ({"trainer": {"tag": "v1"}}, "additional properties 'tag' not allowed"),
        ({"trainer": {"image": "trainer:v1"}}, "got string, want object"),
        ({"trainer": {"image": {"pullPolicy": "Always"}}}, "additional properties 'pullPolicy'"),
        ({"policy": {"secret": {}}}, "additional properties 'secret' not allowed"),
        ({"policy": {"secrets": ["a"]}}, "got array, want object"),
        ({"policy": {"secrets": {"allowed": []}}}, "additional properties 'allowed' not allowed"),
        ({"policy": {"secrets": {"allow": ["(?i)a"]}}}, "does not match pattern"),
        ({"policy": {"secrets": {"deny": ["a{2}"]}}}, "does not match pattern"),
        ({"policy": {"secrets": {"deny": ["^a$"]}}}, "does not match pattern"),
        ({"policy": {"secrets": {"allow": ["a"] * 17}}}, "maxItems: got 17, want 16"),
        ({"policy": {"maxReplicas": 0}}, "minimum: got 0, want 1"),
        ({"policy": {"signatures": {}}}, "got object, want array"),
        ({"policy": {"signatures": [{"sources": [".*"]}]}}, "missing property 'keys'"),
        (
            {"policy": {"signatures": [{"sources": [".*"], "keys": ["k"]}]}},
            "does not match pattern",
        ),
        ({"policy": {"signatures": [{"sources": [], "keys": [PEM]}]}}, "minItems: got 0, want 1"),
        ({"serving": {"gpus": 2}}, "additional properties 'gpus' not allowed"),
        ({"serving": {"image": "vllm/vllm-openai:v1"}}, "got string, want object"),
        ({"serving": {"image": {"digest": "123"}}}, "does not match pattern"),
        ({"serving": {"command": []}}, "minItems: got 0, want 1"),
        ({"serving": {"command": "vllm serve"}}, "got string, want array"),
        ({"serving": {"args": [8]}}, "got number, want string"),
        ({"serving": {"env": {"THREADS": 4}}}, "got number, want string"),
        ({"serving": {"dtype": "int8"}}, "value must be one of"),
        ({"serving": {"shmSize": "2GB"}}, "does not match pattern"),
        ({"hub": {"endpoint": "mirror.example.com"}}, "does not match pattern"),
        ({"notifications": {"sink": "https://a"}}, "got string, want object"),
        ({"notifications": {"sink": {"url": "ftp://a"}}}, "does not match pattern"),
        ({"notifications": {"sink": {"url": "https://u:p@a"}}}, "does not match pattern"),
        ({"notifications": {"sink": {"url": "https://a/b c"}}}, "does not match pattern"),
        ({"notifications": {"sink": {"ports": [0]}}}, "minimum: got 0, want 1"),
        ({"caCertificates": "/etc/ssl/ca.pem"}, "does not match pattern"),
        ({"proxy": {"url": "https://proxy.example.com"}}, "does not match pattern"),
        ({"proxy": {"url": "http://user:secret@proxy.example.com"}}, "does not match pattern"),
        ({"proxy": {"noProxy": ["10.0.0.0/8"]}}, "does not match pattern"),
        ({"proxy": {"noProxy": ["*.example.com"]}}, "does not match pattern"),
        ({"proxy": {"password": "a"}}, "additional properties 'password' not allowed"),
        ({"imageRegistry": "https://registry.example.com"}, "does not match pattern"),
        ({"defaults": ["storage"]}, "got array, want object"),
        ({"defaults": {"foo": 1}}, "additional properties 'foo' not allowed"),
        (
            {"defaults": {"training": {"loraRank": 8}}},
            "additional properties 'loraRank' not allowed",
        ),
        ({"defaults": {"training": {"lora": {"r": "16"}}}}, "got string, want null or integer"),
        ({"defaults": {"training": {"learningRate": 0}}}, "exclusiveMinimum: got 0, want 0"),
        ({"defaults": {"serving": {"mode": "fast"}}}, "value must be one of 'merged', 'adapter'"),
        ({"defaults": {"storage": {"size": "60GB"}}}, "does not match pattern"),
        ({"logLevel": "loud"}, "value must be one of 'debug'"),
        ({"crds": {"install": True}}, "additional properties 'install' not allowed"),
        ({"crds": {"keep": "yes"}}, "got string, want boolean"),
        ({"rbac": {"aggregateRoles": 1}}, "got number, want boolean"),
        ({"rbac": {"aggregateEndpoints": 1}}, "got number, want boolean"),
        ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "does not match pattern"),
        ({"metrics": {"namespaces": ["a"]}}, "additional properties 'namespaces' not allowed"),
        ({"metrics": {"scraperNamespaces": ["Monitoring"]}}, "does not match pattern"),
        ({"egress": {"cidrs": ["10.0.0.1"]}}, "does not match pattern"),
        ({"egress": {"ports": ["https"]}}, "got string, want integer"),
        ({"egress": {"dns": {"ports": []}}}, "minItems: got 0, want 1"),
        ({"egress": {"allow": []}}, "additional properties 'allow' not allowed"),
        ({"networkPolicy": {"apiServerPorts": [0]}}, "minimum: got 0, want 1"),
        ({"networkPolicy": {"metricsFrom": []}}, "additional properties 'metricsFrom' not allowed"),
        ({"metrics": {"secure": "yes"}}, "got string, want boolean"),
        ({"egress": {"namespaces": ["minio"]}}, "got string, want object"),
        ({"egress": {"namespaces": [{"name": "minio", "ports": []}]}}, "minItems: got 0, want 1"),
        ({"resources": {"limits": {"memory": "512MB"}}}, "does not match pattern"),
        ({"resources": {"claims": []}}, "additional properties 'claims' not allowed"),
        ({"gpu": {"products": ["NVIDIA A10G"]}}, "does not match pattern"),
        ({"gpu": {"products": ["a", "a"]}}, "items at 0 and 1 are equal"),
        ({"gpu": {"resourceName": "gpu"}}, "does not match pattern"),
        ({"gpu": {"tolerations": [{"operator": "Has"}]}}, "value must be one of 'Exists', 'Equal'"),
        ({"gpu": {"required": "no"}}, "got string, want boolean"),
        ({"gpu": {"product": "NVIDIA-A10G"}}, "additional properties 'product' not allowed"),
        ({"tolerations": [{"operator": "Has"}]}, "value must be one of 'Exists', 'Equal'"),
        ({"nodeSelector": {"gpu": True}}, "got boolean, want string"),
        ({"fullnameOverride": "7b"}, "does not match pattern"),
    ],
    ids=json.dumps,
)
def test_schema_rejects_invalid_values(values: Values, message: str) -> None:
    with pytest.raises(RenderError) as error:
        render(values)
    assert "values don't meet the specifications of the schema" in str(error.value)
    assert printed(message) in str(error.value)


@pytest.mark.parametrize("defaults", [builtin_defaults(), {"storage": {"storageClassName": None}}])
def test_schema_accepts_defaults_that_the_operator_accepts(defaults: Values) -> None:
    effective_defaults(defaults)
    render({"defaults": defaults})


def _objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the schema of every object."""
    if reference := schema.get("$ref"):
        schema = SCHEMA["definitions"][reference.rsplit("/", 1)[-1]]
    if schema.get("type") == "object":
        yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from _objects(inner, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from _objects(schema["items"], f"{path}[]")


def test_only_free_form_objects_accept_unknown_keys() -> None:
    open_objects = {path for path, found in _objects(SCHEMA) if "additionalProperties" not in found}
    assert open_objects == FREE_FORM


def test_schema_and_values_have_the_same_keys() -> None:
    def keys(values: Values, path: str = "") -> set[str]:
        found = set()
        for key, value in values.items():
            found.add(path + key)
            # Each default is a field of the spec, of which the values name only one.
            if isinstance(value, dict) and path + key not in {*FREE_FORM, "defaults"}:
                found |= keys(value, f"{path}{key}.")
        return found

    def properties(schema: dict[str, Any], path: str = "") -> set[str]:
        if reference := schema.get("$ref"):
            schema = SCHEMA["definitions"][reference.rsplit("/", 1)[-1]]
        found = set()
        for name, inner in schema.get("properties", {}).items():
            found.add(path + name)
            found |= properties(inner, f"{path}{name}.")
        return found

    written = keys(yaml.safe_load((CHART / "values.yaml").read_text()))
    known = {path for path in properties(SCHEMA) - {"global"} if not path.startswith("defaults.")}
    # Keys that the defaults omit: the kinds of affinity, and most of the security contexts.
    omitted = {
        path
        for path in known - written
        if path.startswith(("affinity.", "podSecurityContext.", "securityContext."))
    }
    # The schema does not name the resources, such as cpu.
    amounts = {key for key in written if re.search(r"resources\.(requests|limits)\.", key)}
    assert known - omitted == written - amounts


@settings(max_examples=1000)
@given(pattern=PATTERNS)
def test_schema_allows_every_pattern_of_the_operator(pattern: str) -> None:
    """The operator and RE2 reject what the schema cannot: brackets without a partner."""
    allowed = SCHEMA["definitions"]["patterns"]["items"]
    assert allowed["maxLength"] == MAX_LENGTH
    matches(pattern, "")
    assert re.search(allowed["pattern"], pattern)


@pytest.mark.parametrize("pattern", ["(a", "[z-a]"])
def test_schema_rejects_a_pattern_that_the_api_server_cannot_read(pattern: str) -> None:
    """Admission would reject every FineTuneJob. Versions of Helm write the field differently."""
    with pytest.raises(RenderError, match=r"secrets[./]allow[./]0"):
        render({"policy": {"secrets": {"allow": [pattern]}}})
