"""What the chart makes of its values."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from tests.chart import helm
from tests.chart.helm import CHART, Values, render, template

from finetune_api.defaulting import effective_defaults, resolve
from finetune_operator.config import Egress, OperatorConfig

CRD = Path(__file__).parents[2] / "crds" / "finetune.dev_finetunejobs.yaml"
GOLDEN = Path(__file__).parent / "golden" / "default.yaml"
JOB = {
    "model": {"source": "hf://org/model"},
    "dataset": {"source": "hf://org/data", "format": "alpaca"},
}


def test_lint() -> None:
    said = helm.run("lint", "--strict", str(CHART), f"--kube-version={helm.KUBERNETES}")
    assert "1 chart(s) linted, 0 chart(s) failed" in said


def test_default_values_render_what_is_reviewed() -> None:
    """``UPDATE_GOLDEN=1`` writes the file anew; the diff is what a reviewer reads."""
    rendered = template({"crds": {"enabled": False}})
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(rendered)
    assert rendered == GOLDEN.read_text()


def test_crd_is_the_generated_one_with_an_annotation() -> None:
    kept = template(only="crd")
    annotation = "  annotations:\n    helm.sh/resource-policy: keep\n"
    assert kept.count(annotation) == 1
    assert CRD.read_text() in kept.replace(annotation, "")
    assert yaml.safe_load(kept)["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_crd_may_go_with_the_chart() -> None:
    rendered = template({"crds": {"keep": False}}, only="crd")
    assert CRD.read_text() in rendered
    assert "resource-policy" not in rendered


def test_crd_may_be_left_to_others() -> None:
    assert render().all("CustomResourceDefinition")
    assert not render({"crds": {"enabled": False}}).all("CustomResourceDefinition")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "finetune-operator:0.1.0"),
        (
            {"repository": "registry.example.com:5000/a", "tag": "v2"},
            "registry.example.com:5000/a:v2",
        ),
        ({"tag": "v2", "digest": "sha256:" + "0" * 64}, "finetune-operator@sha256:" + "0" * 64),
    ],
)
def test_operator_image(image: Values, expected: str) -> None:
    assert render({"image": image}).pod["containers"][0]["image"] == expected


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("finetune-trainer", "finetune-trainer:0.1.0"),
        ("localhost:5000/trainer", "localhost:5000/trainer:0.1.0"),
        ("localhost:5000/trainer:abc", "localhost:5000/trainer:abc"),
        ("trainer@sha256:" + "1" * 64, "trainer@sha256:" + "1" * 64),
    ],
)
def test_trainer_image(image: str, expected: str) -> None:
    assert render({"trainer": {"image": image}}).config["images"]["trainer"] == expected


def test_configuration_says_everything_that_the_operator_reads() -> None:
    """A setting that the chart leaves out could never be set."""

    def left_out(model: BaseModel, path: str = "") -> list[str]:
        missing = []
        for name in type(model).model_fields:
            if name not in model.model_fields_set:
                missing.append(path + name)
            elif isinstance(value := getattr(model, name), BaseModel):
                missing += left_out(value, f"{path}{name}.")
        return missing

    config = OperatorConfig.model_validate(render().config)
    assert left_out(config) == []
    assert config.operator_namespace == "finetune-system"
    assert config.serving.command == ["vllm", "serve", "/model"]


def test_jobs_run_on_the_card_that_the_recipe_is_for() -> None:
    defaults = effective_defaults(render().config["defaults"])
    placement = resolve(JOB, defaults).spec.placement
    assert placement.node_selector == {"nvidia.com/gpu.product": "NVIDIA-A10G"}


def test_defaults_arrive_as_they_were_written() -> None:
    """Numbers too: 1e-05 is what Helm makes of 0.00001, and a text for YAML 1.1."""
    written = {
        "training": {"learningRate": 0.00001, "sequenceLength": 1048576, "seed": 4294967295},
        "placement": {"nodeSelector": {"nvidia.com/gpu.product": None, "pool": "tuning"}},
        "storage": {"size": "120Gi"},
    }
    defaults = effective_defaults(render({"defaults": written}).config["defaults"])
    spec = resolve(JOB, defaults).spec
    assert spec.training.learning_rate == 0.00001
    assert spec.training.sequence_length == 1048576
    assert spec.training.seed == 4294967295
    assert spec.placement.node_selector == {"pool": "tuning"}
    assert spec.storage.size == "120Gi"


def test_serving_settings_arrive_as_they_were_written() -> None:
    serving = {
        "image": "registry.example.com/vllm:1",
        "command": ["python", "-m", "vllm"],
        "args": ["--max-num-seqs=8", 'a "quoted" {{ word }}'],
        "env": {"NUMBER": "1", "YES": "yes", "COLON": "a: b # c"},
        "dtype": "float32",
        "shmSize": "256Mi",
    }
    config = OperatorConfig.model_validate(render({"serving": serving}).config)
    assert config.images.serving == serving["image"]
    assert config.serving.model_dump(by_alias=True) == {
        key: value for key, value in serving.items() if key != "image"
    }


def test_a_changed_configuration_rolls_the_operator() -> None:
    def checksum(values: Values) -> str:
        metadata = render(values).all("Deployment")[0]["spec"]["template"]["metadata"]
        return str(metadata["annotations"]["checksum/config"])

    assert checksum({}) != checksum({"hub": {"endpoint": "http://mirror.example.com"}})
    assert checksum({}) == checksum({"nodeSelector": {"a": "b"}})


def test_one_works_and_one_stands_by() -> None:
    rendered = render()
    spec = rendered.all("Deployment")[0]["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    (spread,) = rendered.pod["topologySpreadConstraints"]
    labels = spec["template"]["metadata"]["labels"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    assert rendered.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    # One that may not be evicted would keep its node from ever being drained.
    assert not render({"replicas": 1}).all("PodDisruptionBudget")


def test_the_replicas_of_a_release_share_a_lease_and_no_other_release_has_it() -> None:
    names = set()
    for release in ("finetune-operator", "tuning"):
        rendered = render(release=release)
        name = rendered.config["leaseName"]
        role = rendered.one("Role", f"{name}-lease")
        assert rendered.config["operatorNamespace"] == role["metadata"]["namespace"]
        assert role["rules"][0]["resourceNames"] == [name]
        names.add(name)
    assert len(names) == 2


def test_service_and_monitor_find_the_pod() -> None:
    rendered = render({"metrics": {"serviceMonitor": {"enabled": True, "labels": {"team": "ml"}}}})
    pod = rendered.all("Deployment")[0]["spec"]["template"]
    (service,), (monitor,) = rendered.all("Service"), rendered.all("ServiceMonitor")
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    (container_port,) = pod["spec"]["containers"][0]["ports"]
    assert port["targetPort"] == container_port["name"]
    assert container_port["containerPort"] == port["port"] == 8080
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == port["name"]
    assert monitor["metadata"]["labels"]["team"] == "ml"


def test_network_policy_lets_through_what_the_operator_does() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]
    values = {"networkPolicy": {"enabled": True, "metricsFrom": peers, "apiServerPorts": [8443]}}
    spec = render(values).one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert [(rule["ports"][0]["port"], rule["from"]) for rule in spec["ingress"]] == [(8080, peers)]
    assert [port["port"] for rule in spec["egress"] for port in rule["ports"]] == [
        8443,
        53,
        53,
        9400,
        9401,
    ]
    assert not render().all("NetworkPolicy")


def test_names_follow_the_release() -> None:
    assert render(release="tuning").one("Deployment", "tuning-finetune-operator")
    assert render({"fullnameOverride": "tuner"}).one("Deployment", "tuner")
    longest = render(release="a" * 53)
    assert all(len(found["metadata"]["name"]) <= 63 for found in longest.objects)


def test_a_service_account_of_others_must_be_named() -> None:
    with pytest.raises(
        helm.Refused, match=r"name the ServiceAccount to use in serviceAccount\.name"
    ):
        render({"serviceAccount": {"create": False}})
    rendered = render({"serviceAccount": {"create": False, "name": "given"}})
    assert not rendered.all("ServiceAccount")
    assert rendered.pod["serviceAccountName"] == "given"
    assert rendered.one("ClusterRoleBinding")["subjects"][0]["name"] == "given"


# Another value for each, where one of the same kind cannot be made up.
OTHERS: dict[str, Any] = {
    "image.digest": "sha256:" + "0" * 64,
    "image.pullPolicy": "Always",
    "imagePullSecrets": ["registry"],
    "replicas": 3,
    "namespaces": ["team-a"],
    "serving.image": "vllm:other",
    "serving.env": {"A": "b"},
    "serving.dtype": "bfloat16",
    "serving.shmSize": "1Gi",
    "hub.endpoint": "http://mirror.example.com",
    "logLevel": "debug",
    "metrics.serviceMonitor.interval": "5s",
    "networkPolicy.metricsFrom": [{"podSelector": {}}],
    "networkPolicy.apiServerPorts": [1],
    "egress.cidrs": ["192.0.2.0/24"],
    "egress.excludedCidrs": ["192.0.2.0/24"],
    "egress.ports": [8443],
    "egress.dns.cidrs": ["192.0.2.0/24"],
    "egress.dns.ports": [10053],
    "resources.requests.cpu": "1",
    "resources.requests.memory": "1Gi",
    "resources.limits.memory": "1Gi",
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {"a": {}}},
}
# Values that count only with others.
NEEDED: dict[str, Values] = {
    "metrics.serviceMonitor": {"metrics": {"serviceMonitor": {"enabled": True}}},
    "networkPolicy": {"networkPolicy": {"enabled": True}},
    "serviceAccount.create": {"serviceAccount": {"name": "given"}},
}


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


@pytest.mark.parametrize(("path", "value"), _leaves(_chart_values()).items())
def test_every_value_changes_something(path: str, value: Any) -> None:
    other = OTHERS.get(path)
    if other is None:
        made_up = {bool: not value, str: "other", list: ["other"], dict: {"other": "value"}}
        other = made_up[type(value)]
    base: Values = {}
    for prefix, values in NEEDED.items():
        if path.startswith(prefix):
            base = values
    assert template(_with(base, path, other)) != template(_with(base, path, value))


def test_staging_reaches_by_default_what_is_built_in() -> None:
    assert OperatorConfig.model_validate(render().config).egress == Egress()


def test_every_value_is_explained() -> None:
    """Each key of values.yaml stands below a comment of its own, but for lists of sub-keys."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    unexplained = []
    for number, line in enumerate(lines):
        key, colon, value = line.partition(":")
        if line.lstrip().startswith("#") or not colon:
            continue
        explained = number > 0 and lines[number - 1].lstrip().startswith("#")
        if value.strip() and not explained:
            unexplained.append(key.strip())
    # Requests share a comment; the selector's label is explained at the selector.
    assert unexplained == ["nvidia.com/gpu.product", "cpu", "memory", "memory"]
