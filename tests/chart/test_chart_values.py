"""The effect of each chart value, and the references of the images."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import helm
from tests.support.helm import CHART, Values, render, template
from tests.support.signing_keys import KEY

from cluster import install
from finetune_api.policy.limits import Limits
from finetune_operator.config import parsed

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "{repository}:{tag}"),
        (
            {"repository": "registry.example.com:5000/a", "tag": "v2"},
            "registry.example.com:5000/a:v2",
        ),
        ({"repository": "registry.example.com:5000/a"}, "registry.example.com:5000/a:{tag}"),
        ({"tag": "v2", "digest": DIGEST}, "{repository}@" + DIGEST),
    ],
    ids=["defaults", "repository-and-tag", "repository", "digest-overrides-tag"],
)
@pytest.mark.parametrize(
    ("name", "path", "repository", "tag"),
    [
        ("operator", "image", "finetune-operator", "0.1.0"),
        ("trainer", "trainer.image", "finetune-trainer", "0.1.0"),
        ("serving", "serving.image", "docker.io/vllm/vllm-openai", "v0.32.0"),
    ],
    ids=["operator", "trainer", "serving"],
)
def test_image_reference_is_built_from_repository_tag_and_digest(
    name: str, path: str, repository: str, tag: str, image: Values, expected: str
) -> None:
    reference = expected.format(repository=repository, tag=tag)
    rendered = render(_with({}, path, image))
    assert rendered.config["images"][name] == reference
    if name == "operator":
        assert rendered.pod["containers"][0]["image"] == reference


def test_serving_image_requires_a_tag_or_a_digest() -> None:
    with pytest.raises(
        helm.RenderError, match=r"set serving\.image\.tag or serving\.image\.digest"
    ):
        render({"serving": {"image": {"tag": ""}}})
    rendered = render({"serving": {"image": {"tag": "", "digest": DIGEST}}})
    assert rendered.config["images"]["serving"] == f"docker.io/vllm/vllm-openai@{DIGEST}"


def test_image_references_of_the_local_cluster_render_unchanged() -> None:
    """dev/cluster passes image references to the chart as repository, tag and digest."""
    for reference in ("localhost:5000/trainer:abc", "registry.example.com/a/b@" + DIGEST):
        values = {"trainer": {"image": install.split_image(reference)}}
        assert render(values).config["images"]["trainer"] == reference


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("docker.io/vllm/vllm-openai", "registry.example.com:5000/mirror/vllm/vllm-openai"),
        ("localhost/vllm", "registry.example.com:5000/mirror/vllm"),
        ("localhost:5000/a/vllm", "registry.example.com:5000/mirror/a/vllm"),
        ("vllm/vllm-openai", "registry.example.com:5000/mirror/vllm/vllm-openai"),
    ],
)
def test_image_registry_replaces_the_registry_of_each_image(repository: str, expected: str) -> None:
    serving = {"image": {"repository": repository}}
    for registry in ("registry.example.com:5000/mirror", "registry.example.com:5000/mirror/"):
        rendered = render({"imageRegistry": registry, "serving": serving})
        assert rendered.config["images"] == {
            "operator": "registry.example.com:5000/mirror/finetune-operator:0.1.0",
            "trainer": "registry.example.com:5000/mirror/finetune-trainer:0.1.0",
            "serving": f"{expected}:v0.32.0",
        }
        assert rendered.pod["containers"][0]["image"] == rendered.config["images"]["operator"]


def test_certificates_reach_the_operator_unchanged() -> None:
    text = "# Corporate CA\n-----BEGIN CERTIFICATE-----\nMIIB+/=\n-----END CERTIFICATE-----\n"
    assert render({"caCertificates": text}).config["caCertificates"] == text


def test_required_signatures_are_no_limit_of_the_spec() -> None:
    required = [{"sources": [".*"], "what": ["model"], "keys": [KEY.public_key.decode()]}]
    config = render({"policy": {"signatures": required}}).config
    assert config["signatures"] == required
    assert "signatures" not in config["policy"]
    assert "signatures" not in render({}).config
    _, settings = parsed(config)
    assert settings.signatures[0].what == ("model",)


def notes_of(values: Values, folder: Path) -> str:
    """Return the notes of an installation. folder: for a copy of the chart that renders them."""
    chart = shutil.copytree(CHART, folder / "chart")
    text = 'notes: {{ include (print .Template.BasePath "/NOTES.txt") . | toJson }}\n'
    (chart / "templates" / "notes.yaml").write_text(text)
    arguments = ["template", "x", str(chart), "--show-only=templates/notes.yaml"]
    arguments.append(f"--kube-version={helm.KUBERNETES}")
    return str(yaml.safe_load(helm.run(*arguments, values=values))["notes"])


@pytest.mark.parametrize(
    ("values", "image", "warns"),
    [
        ({}, "finetune-operator:0.1.0", True),
        ({"imageRegistry": "registry.example.com/team"}, "registry.example.com/team/", False),
        ({"image": {"repository": "localhost:5000/a"}}, "localhost:5000/a:0.1.0", False),
        ({"image": {"repository": "team/a"}}, "team/a:0.1.0", True),
    ],
    ids=["clone", "registry of all images", "registry with a port", "no registry"],
)
def test_notes_tell_what_to_do_if_images_cannot_be_pulled(
    values: Values, image: str, warns: bool, tmp_path: Path
) -> None:
    notes = notes_of(values, tmp_path)
    assert image in notes
    assert ("names no registry" in notes) is warns
    assert "ImagePullBackOff" in notes


@pytest.mark.parametrize(
    ("values", "warns"),
    [
        ({}, True),
        ({"egress": {"cidrs": ["192.0.2.10/32", "::/0"], "ports": [443, 8443]}}, True),
        ({"egress": {"cidrs": []}}, False),
        ({"egress": {"cidrs": ["192.0.2.10/32"]}}, False),
        ({"proxy": {"url": "http://192.0.2.10:3128"}}, False),
    ],
    ids=["default", "all addresses of IPv6", "closed", "a mirror", "through a proxy"],
)
def test_notes_warn_of_open_egress(values: Values, warns: bool, tmp_path: Path) -> None:
    notes = notes_of(values, tmp_path)
    assert ("WARNING: egress.cidrs contains all addresses" in notes) is warns
    ports = ", ".join(map(str, values.get("egress", {}).get("ports", [443])))
    assert (f"public address on these ports: {ports}." in notes) is warns


def test_notes_say_how_to_get_the_public_key_if_the_operator_signs(tmp_path: Path) -> None:
    signs = {"provenance": {"signingKeySecret": "signing", "signingKeySecretKey": "cosign.key"}}
    notes = notes_of(signs, tmp_path / "signs")
    assert "get secret signing" in notes
    assert '{{index .data "cosign.key"}}' in notes
    assert "signing.pub" not in notes_of({}, tmp_path / "without")


# Changed values, for values that need more than another value of the same type.
CHANGED: dict[str, Any] = {
    "defaults": {"storage": {"size": "120Gi"}},
    "image.digest": DIGEST,
    "image.pullPolicy": "Always",
    "imagePullSecrets": ["registry"],
    "replicaCount": 3,
    "watchNamespaces": ["team-a"],
    "extraEnv": [{"name": "A", "value": "b"}],
    "podSecurityContext.runAsUser": 1001,
    "podSecurityContext.runAsGroup": 1001,
    "podSecurityContext.seccompProfile.type": "Localhost",
    "trainer.image.digest": DIGEST,
    "serving.image.digest": DIGEST,
    "serving.env": {"A": "b"},
    "serving.dtype": "bfloat16",
    "serving.shmSize": "1Gi",
    "caCertificates": "-----BEGIN CERTIFICATE-----",
    "proxy.url": "http://proxy.example.com:3128",
    "proxy.cidrs": ["192.0.2.0/24"],
    "proxy.noProxy": ["hub.example.com"],
    "hub.endpoint": "https://mirror.example.com",
    "admissionPolicy.maxAnnotationBytes": 1000,
    "policy.maxReplicas": 2,
    "policy.maxGpuSeconds": 3600,
    "policy.maxSequenceLength": 4096,
    "policy.signatures": [{"sources": [".*"], "keys": ["-----BEGIN PUBLIC KEY-----"]}],
    "policy.maxIdleSeconds": 3600,
    "logLevel": "debug",
    "metrics.serviceMonitor.interval": "5s",
    "metrics.podMonitor.interval": "5s",
    "metrics.dashboards.annotations": {"grafana_folder": "FineTune"},
    "metrics.certificateSecret": "metrics-tls",
    "networkPolicy.apiServerPorts": [1],
    "egress.cidrs": ["192.0.2.0/24"],
    "egress.excludedCidrs": ["192.0.2.0/24"],
    "egress.ports": [8443],
    "egress.namespaces": [{"name": "stores", "ports": [9000]}],
    "egress.hubCidrs": ["192.0.2.0/24"],
    "egress.dns.cidrs": ["192.0.2.0/24"],
    "egress.dns.ports": [10053],
    "resources.requests.cpu": "1",
    "resources.requests.memory": "1Gi",
    "resources.limits.memory": "1Gi",
    "gpu.resourceName": "nvidia.com/gpu.shared",
    "gpu.tolerations": [{"operator": "Exists"}],
    "rbac.settingsReaders": [{"kind": "Group", "name": "tuning"}],
    "notifications.sink.url": "https://other.example.com",
    "notifications.sink.ports": [8443],
    "page.urls": ["https://other.example.com"],
    "page.proxyNamespaces": ["ingress"],
    "page.resources.requests.cpu": "1",
    "page.resources.requests.memory": "1Gi",
    "page.resources.limits.memory": "1Gi",
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {"a": {}}},
}
# Values that have an effect only together with others.
PREREQUISITES: dict[str, Values] = {
    "metrics.serviceMonitor": {"metrics": {"serviceMonitor": {"enabled": True}}},
    "metrics.podMonitor": {"metrics": {"podMonitor": {"enabled": True}}},
    "metrics.prometheusRule": {"metrics": {"prometheusRule": {"enabled": True}}},
    "metrics.dashboards": {"metrics": {"dashboards": {"enabled": True}}},
    "serviceAccount.create": {"serviceAccount": {"name": "given"}},
    "provenance.signingKeySecretKey": {"provenance": {"signingKeySecret": "signing"}},
    "page": {"page": {"enabled": True, "urls": ["https://ftj.example.com"]}},
    "notifications.sink": {"notifications": {"sink": {"url": "https://events.example.com"}}},
    "notifications.sink.tokenSecretKey": {
        "notifications": {"sink": {"url": "https://events.example.com", "tokenSecret": "events"}}
    },
}

REQUIRED = {"page.urls"}
"""Values whose default is refused; the prerequisites set them."""


def _leaves(values: Values, path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value and key != "defaults":
            found |= _leaves(value, f"{path}{key}.")
        else:
            found[path + key] = value
    return found


def _chart_values() -> Values:
    values: Values = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


def _with(base: Values, path: str, value: Any) -> Values:
    key, _, rest = path.partition(".")
    inner = dict(base.get(key) or {}) if rest else {}
    return {**base, key: _with(inner, rest, value) if rest else value}


@pytest.mark.parametrize(
    ("path", "value"), _leaves(_chart_values()).items(), ids=_leaves(_chart_values())
)
def test_every_value_changes_the_manifests(path: str, value: Any) -> None:
    other = CHANGED.get(path)
    if other is None:
        by_type = {bool: not value, str: "other", list: ["other"], dict: {"other": "value"}}
        other = by_type[type(value)]
    base: Values = {}
    for prefix, values in PREREQUISITES.items():
        if path.startswith(prefix):
            base = values
    # Without values, the chart has ``value`` there; the manifests are then rendered once for all.
    usual = _with(base, path, value) if base and path not in REQUIRED else base
    assert template(_with(base, path, other)) != template(usual)


def test_default_policy_is_that_of_the_operator() -> None:
    assert render().config["policy"] == Limits().model_dump(mode="json", by_alias=True)


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        (
            {},
            "{'queueName': false, 'maxGpuSeconds': false, 'afterSeconds': false, "
            "'apiKeySecretRef': false, 'serves': true}",
        ),
        (
            {
                "queueName": "team",
                "runPolicy": {"maxGpuSeconds": 60},
                "serving": {"idle": {"afterSeconds": 60}},
            },
            "{'queueName': true, 'maxGpuSeconds': true, 'afterSeconds': true, "
            "'apiKeySecretRef': false, 'serves': true}",
        ),
        (
            {"runPolicy": {"backoffLimit": 1}, "serving": {"replicas": 2}},
            "{'queueName': false, 'maxGpuSeconds': false, 'afterSeconds': false, "
            "'apiKeySecretRef': false, 'serves': true}",
        ),
        (
            {"serving": {"enabled": False, "apiKeySecretRef": {"name": "key"}}},
            "{'queueName': false, 'maxGpuSeconds': false, 'afterSeconds': false, "
            "'apiKeySecretRef': true, 'serves': false}",
        ),
    ],
)
def test_admission_knows_the_defaults_of_required_fields(defaults: Values, expected: str) -> None:
    (policy,) = (
        each
        for each in render({"defaults": defaults}).all("ValidatingAdmissionPolicy")
        if each["metadata"]["name"].endswith("-policy")
    )
    variables = {each["name"]: each["expression"] for each in policy["spec"]["variables"]}
    assert variables["defaulted"] == expected
