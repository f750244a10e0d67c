"""Egress rules of the prepare pod for hub and egress settings of the chart."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_operator.config import OperatorConfig
from finetune_operator.manifests.egress import NAMESPACE_LABEL
from finetune_operator.manifests.egress import rules as render

IMAGES = {"trainer": "t", "serving": "s", "operator": "o"}


def egress_rules(
    hub: str = "", *, cloud_identity: bool = False, **egress: Any
) -> list[dict[str, Any]]:
    config = OperatorConfig.model_validate(
        {"images": IMAGES, "hub": {"endpoint": hub}, "egress": egress}
    )
    return render(config, cloud_identity=cloud_identity)


def allows(rules: list[dict[str, Any]], address: str, port: int) -> bool:
    """Report whether the rules allow TCP to a port of an address."""
    target = ip_address(address)
    for rule in rules:
        ports = [each["port"] for each in rule.get("ports", ()) if each["protocol"] == "TCP"]
        if "ports" in rule and port not in ports:
            continue
        for peer in rule["to"]:
            block = peer.get("ipBlock")
            if block is None or target not in ip_network(block["cidr"]):
                continue
            if not any(target in ip_network(each) for each in block.get("except", ())):
                return True
    return False


def open_namespaces(rules: list[dict[str, Any]]) -> set[str]:
    """Return the namespaces that are allowed on every port."""
    names: set[str] = set()
    for rule in rules:
        for peer in rule["to"]:
            selector = peer.get("namespaceSelector")
            if selector is not None and "ports" not in rule:
                names |= (
                    {selector["matchLabels"][NAMESPACE_LABEL]}
                    if "matchLabels" in selector
                    else set(selector["matchExpressions"][0]["values"])
                )
    return names


@pytest.mark.parametrize(
    ("address", "port", "open_"),
    [
        ("93.184.215.14", 443, True),
        ("2606:2800:21f::1", 443, True),
        ("93.184.215.14", 80, False),
        ("93.184.215.14", 22, False),
        ("10.96.0.1", 443, False),
        ("172.20.0.1", 443, False),
        ("192.168.1.1", 443, False),
        ("100.64.0.1", 443, False),
        ("fd12::1", 443, False),
        ("169.254.169.254", 80, False),
        ("169.254.169.254", 443, False),
        ("169.254.170.23", 80, False),
        ("100.100.100.200", 443, False),
        ("fd00:ec2::254", 443, False),
        ("169.254.20.10", 53, True),
    ],
)
def test_public_web_servers_are_allowed_by_default(address: str, port: int, open_: bool) -> None:
    assert allows(egress_rules(), address, port) is open_
    assert open_namespaces(egress_rules()) == set()


@pytest.mark.parametrize(
    "hub",
    [
        "http://hub.models.svc",
        "http://hub.models.svc:8080",
        "https://hub.models.svc.cluster.local/",
    ],
)
def test_a_hub_in_the_cluster_opens_only_its_namespace(hub: str) -> None:
    assert open_namespaces(egress_rules(hub)) == {"models"}
    assert open_namespaces(egress_rules(hub, namespaces=["stores"])) == {"models", "stores"}
    assert not allows(egress_rules(hub), "10.0.0.7", 443)


def test_a_hub_at_a_private_address_opens_only_its_port() -> None:
    rules = egress_rules("http://10.20.0.7:8080")
    assert allows(rules, "10.20.0.7", 8080)
    assert not allows(rules, "10.20.0.7", 443)
    assert not allows(rules, "10.20.0.8", 8080)
    assert allows(egress_rules("http://[fd12::7]:8080"), "fd12::7", 8080)


def test_a_public_mirror_opens_its_port() -> None:
    rules = egress_rules("http://mirror.example.com:8081")
    assert allows(rules, "93.184.215.14", 8081)
    assert allows(egress_rules("http://mirror.example.com"), "93.184.215.14", 80)
    assert not allows(rules, "10.0.0.7", 8081)


def test_a_private_range_in_cidrs_is_open() -> None:
    rules = egress_rules(cidrs=["0.0.0.0/0", "10.20.0.0/16"])
    assert allows(rules, "10.20.0.7", 443)
    assert not allows(rules, "10.21.0.7", 443)
    assert not allows(rules, "169.254.169.254", 443)


def test_dns_at_an_address_opens_only_its_port() -> None:
    rules = egress_rules(dns={"namespaces": [], "cidrs": ["169.254.169.254/32"], "ports": [53]})
    assert allows(rules, "169.254.169.254", 53)
    assert not allows(rules, "169.254.169.254", 80)
    assert not allows(rules, "169.254.20.10", 53)
    nowhere = egress_rules(dns={"namespaces": [], "cidrs": []})
    assert all(rule["to"] for rule in nowhere)
    assert not allows(nowhere, "169.254.20.10", 53)


def test_without_cidrs_only_dns_and_the_hub_are_allowed() -> None:
    rules = egress_rules("http://hub.models.svc", cidrs=[])
    assert not allows(rules, "93.184.215.14", 443)
    assert open_namespaces(rules) == {"models"}
    assert len(rules) == 2


@pytest.mark.parametrize("cidr", ["169.254.169.254/32", "169.254.0.0/16", "fd00:ec2::254/128"])
def test_metadata_services_cannot_be_opened(cidr: str) -> None:
    with pytest.raises(ValidationError, match="never opened"):
        egress_rules(cidrs=[cidr])


def test_a_cloud_identity_opens_the_pod_identity_agent() -> None:
    assert allows(egress_rules(cloud_identity=True), "169.254.170.23", 80)
    assert not allows(egress_rules(cloud_identity=True), "169.254.169.254", 80)
