"""The page in the cluster: a pod without a token, which only a proxy reaches."""

import re
from typing import Any

import pytest
from tests.support.helm import CHART, RenderError, Values, render

from cluster.artifacts import images
from finetune_cli.ui import pod

NAME = "finetune-operator-page"
PAGE: Values = {"page": {"enabled": True, "urls": ["https://ftj.example.com"]}}
DOCKERFILE = CHART.parents[1] / "Dockerfile.operator"


def of_page(values: Values | None = None) -> dict[str, Any]:
    rendered = render({**PAGE, **(values or {})})
    spec: dict[str, Any] = rendered.one("Deployment", NAME)["spec"]["template"]["spec"]
    return spec


def test_page_is_off_by_default_and_needs_its_address() -> None:
    assert "page" not in str(render().all("Deployment"))
    with pytest.raises(RenderError, match=r"page\.urls is empty: set it to the URL"):
        render({"page": {"enabled": True}})


def test_page_has_no_token_and_no_rights() -> None:
    spec = of_page()
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    assert {next(iter(volume.keys() - {"name"})) for volume in spec["volumes"]} == {
        "configMap",
        "emptyDir",
    }
    assert spec["volumes"][0]["configMap"]["name"] == "kube-root-ca.crt"
    without, rendered = render(), render(PAGE)
    for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount"):
        assert rendered.all(kind) == without.all(kind)


def test_pod_is_restricted_like_that_of_the_operator() -> None:
    operator, page = render(PAGE).one("Deployment")["spec"]["template"]["spec"], of_page()
    assert page["securityContext"] == operator["securityContext"]
    ours, theirs = page["containers"][0], operator["containers"][0]
    for field in ("securityContext", "image", "imagePullPolicy"):
        assert ours[field] == theirs[field]
    assert ours["resources"]["limits"]["memory"]


def test_no_selector_of_the_operator_matches_the_page() -> None:
    rendered = render(PAGE)
    labels = rendered.one("Deployment", NAME)["spec"]["template"]["metadata"]["labels"]
    selectors = {
        (document["kind"], document["metadata"]["name"]): selector
        for kind in ("Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget")
        for document in rendered.all(kind)
        for selector in [_selector(document["spec"])]
    }
    matching = {key for key, selector in selectors.items() if selector.items() <= labels.items()}
    assert matching == {(kind, NAME) for kind in ("Deployment", "Service", "NetworkPolicy")}


def _selector(spec: dict[str, Any]) -> dict[str, str]:
    selector = spec.get("selector") or spec.get("podSelector") or {}
    labels: dict[str, str] = selector.get("matchLabels", selector)
    return labels


def test_only_the_proxy_connects_and_the_page_only_to_the_api_server() -> None:
    assert render(PAGE).one("NetworkPolicy", NAME)["spec"]["ingress"] == []
    values = {"page": {**PAGE["page"], "proxyNamespaces": ["ingress"]}}
    spec = render(values).one("NetworkPolicy", NAME)["spec"]
    (rule,) = spec["ingress"]
    (peer,) = rule["from"]
    assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["ingress"]
    assert rule["ports"] == [{"port": pod.PORT, "protocol": "TCP"}]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (egress,) = spec["egress"]
    assert {port["port"] for port in egress["ports"]} == {443, 6443, 8443, 16443}
    without = render({**PAGE, "networkPolicy": {"enabled": False}})
    assert NAME not in str(without.all("NetworkPolicy"))


def test_program_gets_its_address_and_the_probes_know_it() -> None:
    (container,) = of_page()["containers"]
    assert container["command"] == ["python", "-m", "finetune_cli.ui"]
    assert container["args"][1:] == ["--url=https://ftj.example.com"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "certificates"]
    assert container["args"][0] == f"--certificate-authority={mount['mountPath']}/ca.crt"
    assert container["ports"] == [{"name": "http", "containerPort": pod.PORT}]
    for probe in ("readinessProbe", "livenessProbe"):
        request = container[probe]["httpGet"]
        assert request["httpHeaders"] == [{"name": "Host", "value": "ftj.example.com"}]
        assert request["path"] == "/static/icon.svg"


def test_image_contains_the_page() -> None:
    copied = set(re.findall(r"^COPY (trainer/\S+) ", DOCKERFILE.read_text(), re.MULTILINE))
    assert {"trainer/finetune_cli", "trainer/finetune_trainer"} <= copied
    assert copied <= set(images.OPERATOR.inputs)
