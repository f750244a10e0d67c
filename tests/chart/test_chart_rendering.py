"""The objects that the chart renders with its values."""

import os
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from tests.support import helm
from tests.support.helm import CHART, Values, render, template
from tests.support.signing_keys import KEY

from finetune_api.contracts.ports import TRAINER_METRICS, VERIFIER_METRICS
from finetune_api.crd.resources import RESOURCES
from finetune_api.defaulting import effective_defaults, resolve
from finetune_operator import health
from finetune_operator.config import GpuConfig, MetricsConfig, parsed
from finetune_operator.connections import Egress
from finetune_operator.metrics_server import server

CRDS = [Path(__file__).parents[2] / "crds" / resource.file for resource in RESOURCES]
GOLDEN = Path(__file__).parent / "golden" / "default.yaml"
JOB = {
    "model": {"source": "hf://org/model"},
    "dataset": {"source": "hf://org/data", "format": "alpaca"},
}


def test_helm_lint_passes() -> None:
    output = helm.run("lint", "--strict", str(CHART), f"--kube-version={helm.KUBERNETES}")
    assert "1 chart(s) linted, 0 chart(s) failed" in output


def test_default_values_render_the_golden_manifests() -> None:
    """``UPDATE_GOLDEN=1`` writes the file, so that a review shows the changed manifests."""
    rendered = template({"crds": {"enabled": False}})
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(rendered)
    assert _documents(rendered) == _documents(GOLDEN.read_text())


def _documents(text: str) -> list[str]:
    """Return the documents. Helm 4 writes an empty line at the end of some of them."""
    return [each.strip("\n") for each in text.split("---\n")]


def test_crd_equals_the_generated_file_plus_the_keep_annotation() -> None:
    kept = template(only="crd")
    annotation = "  annotations:\n    helm.sh/resource-policy: keep\n"
    assert kept.count(annotation) == len(CRDS)
    for crd in CRDS:
        assert crd.read_text() in kept.replace(annotation, "")
    for rendered in yaml.safe_load_all(kept):
        assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_crd_without_keep_has_no_resource_policy() -> None:
    rendered = template({"crds": {"keep": False}}, only="crd")
    for crd in CRDS:
        assert crd.read_text() in rendered
    assert "resource-policy" not in rendered


def test_crd_can_be_disabled() -> None:
    assert render().all("CustomResourceDefinition")
    assert not render({"crds": {"enabled": False}}).all("CustomResourceDefinition")


def test_configuration_contains_every_setting_of_the_operator() -> None:
    """Users cannot change a setting that the chart omits."""

    def omitted(model: BaseModel, path: str = "") -> list[str]:
        missing = []
        for name, field in type(model).model_fields.items():
            if field.exclude:
                # Not in the document: the operator reads it from elsewhere.
                continue
            if name not in model.model_fields_set:
                missing.append(path + name)
            elif isinstance(value := getattr(model, name), BaseModel):
                missing += omitted(value, f"{path}{name}.")
        return missing

    optional = {
        "provenance": {"signingKeySecret": "keys"},
        "notifications": {"sink": {"url": "https://events.example.com"}},
        "policy": {"signatures": [{"sources": [".*"], "keys": [KEY.public_key.decode()]}]},
    }
    process, config = parsed(render(optional).config)
    assert omitted(process) == omitted(config) == []
    assert process.operator_namespace == config.operator_namespace == "finetune-system"
    assert config.serving.command == ["vllm", "serve", "/model"]


def test_default_gpus_equal_the_default_of_the_operator() -> None:
    _, config = parsed(render().config)
    assert config.gpu == GpuConfig()
    assert config.gpu.products == ["NVIDIA-A10G", "NVIDIA-L4", "NVIDIA-A10"]


def test_gpu_settings_reach_the_operator_unchanged() -> None:
    gpu = {
        "products": ["NVIDIA-H200"],
        "resourceName": "nvidia.com/gpu.shared",
        "tolerations": [{"key": "pool", "operator": "Equal", "value": "yes"}],
        "required": False,
    }
    _, config = parsed(render({"gpu": gpu}).config)
    assert config.gpu.model_dump(by_alias=True, exclude_none=True) == gpu


def test_defaults_reach_the_operator_unchanged() -> None:
    """Numbers, too: helm renders 0.00001 as 1e-05, which YAML 1.1 reads as a string."""
    written = {
        "training": {"learningRate": 0.00001, "sequenceLength": 1048576, "seed": 4294967295},
        "placement": {"nodeSelector": {"pool": "tuning"}},
        "storage": {"size": "120Gi"},
    }
    defaults = effective_defaults(render({"defaults": written}).config["defaults"])
    spec = resolve(JOB, defaults).spec
    assert spec.training.learning_rate == 0.00001
    assert spec.training.sequence_length == 1048576
    assert spec.training.seed == 4294967295
    assert spec.placement.node_selector == {"pool": "tuning"}
    assert spec.storage.size == "120Gi"


def test_serving_settings_reach_the_operator_unchanged() -> None:
    serving = {
        "command": ["python", "-m", "vllm"],
        "args": ["--max-num-seqs=8", 'a "quoted" {{ word }}'],
        "env": {"NUMBER": "1", "YES": "yes", "COLON": "a: b # c"},
        "dtype": "float32",
        "shmSize": "256Mi",
    }
    _, config = parsed(render({"serving": serving}).config)
    assert config.serving.model_dump(by_alias=True) == serving


def test_a_changed_configuration_restarts_the_operator() -> None:
    def checksum(values: Values) -> str:
        metadata = render(values).all("Deployment")[0]["spec"]["template"]["metadata"]
        return str(metadata["annotations"]["checksum/config"])

    assert checksum({}) != checksum({"hub": {"endpoint": "http://mirror.example.com"}})
    assert checksum({}) == checksum({"nodeSelector": {"a": "b"}})


def test_two_replicas_spread_over_nodes_with_a_disruption_budget() -> None:
    rendered = render()
    spec = rendered.all("Deployment")[0]["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    (spread,) = rendered.pod["topologySpreadConstraints"]
    labels = spec["template"]["metadata"]["labels"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    assert rendered.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    # A budget for a single replica would block the drain of its node.
    assert not render({"replicaCount": 1}).all("PodDisruptionBudget")


def test_each_release_has_its_own_lease() -> None:
    names = set()
    for release in ("finetune-operator", "tuning"):
        rendered = render(release=release)
        name = rendered.config["leaseName"]
        role = rendered.one("Role", f"{name}-lease")
        assert rendered.config["operatorNamespace"] == role["metadata"]["namespace"]
        assert role["rules"][0]["resourceNames"] == [name]
        names.add(name)
    assert len(names) == 2


def test_service_and_service_monitor_select_the_pod() -> None:
    rendered = render({"metrics": {"serviceMonitor": {"enabled": True, "labels": {"team": "ml"}}}})
    pod = rendered.all("Deployment")[0]["spec"]["template"]
    (service,), (monitor,) = rendered.all("Service"), rendered.all("ServiceMonitor")
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    ports = {each["name"]: each["containerPort"] for each in pod["spec"]["containers"][0]["ports"]}
    assert ports == {"metrics": server.PORT, "probes": health.PORT}
    assert ports[port["targetPort"]] == port["port"]
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == port["name"]
    assert monitor["metadata"]["labels"]["team"] == "ml"


def test_service_monitor_authenticates_and_verifies_a_given_certificate() -> None:
    enabled = {"serviceMonitor": {"enabled": True}}
    (secure,) = render({"metrics": enabled}).one("ServiceMonitor")["spec"]["endpoints"]
    assert secure["scheme"] == "https"
    assert secure["bearerTokenFile"].endswith("/serviceaccount/token")
    assert secure["tlsConfig"] == {"insecureSkipVerify": True}
    rendered = render({"metrics": {**enabled, "certificateSecret": "metrics-tls"}})
    (verified,) = rendered.one("ServiceMonitor")["spec"]["endpoints"]
    assert verified["tlsConfig"] == {
        "ca": {"secret": {"name": "metrics-tls", "key": "ca.crt"}},
        "serverName": "finetune-operator.finetune-system.svc",
    }
    (container,) = rendered.pod["containers"]
    folder = rendered.config["metrics"]["certificateFolder"]
    (mount,) = (each for each in container["volumeMounts"] if each["mountPath"] == folder)
    (volume,) = (each for each in rendered.pod["volumes"] if each["name"] == mount["name"])
    assert volume["secret"]["secretName"] == "metrics-tls"
    (plain,) = render({"metrics": {**enabled, "secure": False}}).one("ServiceMonitor")["spec"][
        "endpoints"
    ]
    assert plain.keys() == {"port", "path", "interval"}


def test_only_the_operator_pod_mounts_the_signing_key() -> None:
    assert "signingKeyFile" not in render().config
    values = {"signingKeySecret": "signing", "signingKeySecretKey": "cosign.key"}
    rendered = render({"provenance": values})
    folder, _, file = rendered.config["signingKeyFile"].rpartition("/")
    (container,) = rendered.pod["containers"]
    (mount,) = (each for each in container["volumeMounts"] if each["mountPath"] == folder)
    assert mount["readOnly"] is True
    (volume,) = (each for each in rendered.pod["volumes"] if each["name"] == mount["name"])
    assert volume["secret"] == {
        "secretName": "signing",
        "items": [{"key": "cosign.key", "path": file}],
    }


def test_only_the_operator_pod_mounts_the_token_of_the_sink() -> None:
    assert "sink" not in render().config
    sink = {"url": "https://events.example.com/a?b=c"}
    assert render({"notifications": {"sink": sink}}).config["sink"] == {**sink, "tokenFile": ""}
    secret = {"tokenSecret": "events", "tokenSecretKey": "key"}
    rendered = render({"notifications": {"sink": {**sink, **secret}}})
    folder, _, file = rendered.config["sink"]["tokenFile"].rpartition("/")
    (container,) = rendered.pod["containers"]
    (mount,) = (each for each in container["volumeMounts"] if each["mountPath"] == folder)
    assert mount["readOnly"] is True
    (volume,) = (each for each in rendered.pod["volumes"] if each["name"] == mount["name"])
    assert volume["secret"] == {"secretName": "events", "items": [{"key": "key", "path": file}]}


@pytest.mark.parametrize(
    ("sink", "ports"),
    [
        ({"url": "https://events.example.com"}, [443]),
        ({"url": "http://events.example.com/path"}, [80]),
        ({"url": "http://broker.events.svc:8080/a"}, [8080]),
        ({"url": "https://[2001:db8::1]:8443"}, [8443]),
        ({"url": "https://[2001:db8::1]"}, [443]),
        ({"url": "http://broker.events.svc", "ports": [8080, 9090]}, [8080, 9090]),
    ],
)
def test_network_policy_allows_notifications(sink: Values, ports: list[int]) -> None:
    rules = render({"notifications": {"sink": sink}}).one("NetworkPolicy")["spec"]["egress"]
    assert [each["port"] for each in rules[-1]["ports"]] == ports


def test_network_policy_admits_only_named_scrapers() -> None:
    spec = render().one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == []
    (rule,) = render({"metrics": {"scraperNamespaces": ["prometheus", "grafana"]}}).one(
        "NetworkPolicy"
    )["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [server.PORT]
    (peer,) = rule["from"]
    (expression,) = peer["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["prometheus", "grafana"]
    assert peer.keys() == {"namespaceSelector"}


def test_network_policy_allows_the_requests_of_the_operator() -> None:
    def ports(values: Values) -> list[int]:
        rules = render(values).one("NetworkPolicy")["spec"]["egress"]
        return [port["port"] for rule in rules for port in rule["ports"]]

    others = [53, 53, TRAINER_METRICS, VERIFIER_METRICS]
    assert ports({}) == [443, 6443, 8443, 16443, *others]
    assert ports({"networkPolicy": {"apiServerPorts": [7443]}}) == [7443, *others]
    assert not render({"networkPolicy": {"enabled": False}}).all("NetworkPolicy")


def test_object_names_derive_from_the_release() -> None:
    assert render(release="tuning").one("Deployment", "tuning-finetune-operator")
    assert render({"fullnameOverride": "tuner"}).one("Deployment", "tuner")
    longest = render(release="a" * 53)
    assert all(len(found["metadata"]["name"]) <= 63 for found in longest.objects)


def test_an_existing_service_account_must_be_named() -> None:
    with pytest.raises(helm.RenderError, match=r"serviceAccount\.name is required"):
        render({"serviceAccount": {"create": False}})
    rendered = render({"serviceAccount": {"create": False, "name": "given"}})
    assert not rendered.all("ServiceAccount")
    assert rendered.pod["serviceAccountName"] == "given"
    assert rendered.one("ClusterRoleBinding")["subjects"][0]["name"] == "given"


def test_default_egress_equals_the_default_of_the_operator() -> None:
    process, config = parsed(render().config)
    assert config.egress == Egress()
    assert process.metrics == MetricsConfig()
