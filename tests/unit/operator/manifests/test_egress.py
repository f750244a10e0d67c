"""Whom staging may reach, for what an administrator says of the hub and of addresses."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_operator.config import OperatorConfig
from finetune_operator.manifests.egress import NAMESPACE, rules

IMAGES = {"trainer": "t", "serving": "s", "operator": "o"}


def made(hub: str = "", *, cloud_identity: bool = False, **egress: Any) -> list[dict[str, Any]]:
    config = OperatorConfig.model_validate(
        {"images": IMAGES, "hub": {"endpoint": hub}, "egress": egress}
    )
    return rules(config, cloud_identity=cloud_identity)


def reaches(found: list[dict[str, Any]], address: str, port: int) -> bool:
    """Tell whether the rules let a pod send TCP to an address."""
    wanted = ip_address(address)
    for rule in found:
        ports = [each["port"] for each in rule.get("ports", ()) if each["protocol"] == "TCP"]
        if "ports" in rule and port not in ports:
            continue
        for peer in rule["to"]:
            block = peer.get("ipBlock")
            if block is None or wanted not in ip_network(block["cidr"]):
                continue
            if not any(wanted in ip_network(each) for each in block.get("except", ())):
                return True
    return False


def spaces(found: list[dict[str, Any]]) -> set[str]:
    """Return the namespaces that may be reached on every port."""
    names: set[str] = set()
    for rule in found:
        for peer in rule["to"]:
            selector = peer.get("namespaceSelector")
            if selector is not None and "ports" not in rule:
                names |= (
                    {selector["matchLabels"][NAMESPACE]}
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
def test_by_default_the_internets_web_servers(address: str, port: int, open_: bool) -> None:
    assert reaches(made(), address, port) is open_
    assert spaces(made()) == set()


@pytest.mark.parametrize(
    "hub",
    [
        "http://hub.models.svc",
        "http://hub.models.svc:8080",
        "https://hub.models.svc.cluster.local/",
    ],
)
def test_a_hub_in_the_cluster_opens_its_namespace_alone(hub: str) -> None:
    assert spaces(made(hub)) == {"models"}
    assert spaces(made(hub, namespaces=["stores"])) == {"models", "stores"}
    assert not reaches(made(hub), "10.0.0.7", 443)


def test_a_hub_at_a_private_address_opens_that_address_and_port_alone() -> None:
    found = made("http://10.20.0.7:8080")
    assert reaches(found, "10.20.0.7", 8080)
    assert not reaches(found, "10.20.0.7", 443)
    assert not reaches(found, "10.20.0.8", 8080)
    assert reaches(made("http://[fd12::7]:8080"), "fd12::7", 8080)


def test_a_mirror_elsewhere_opens_its_port() -> None:
    found = made("http://mirror.example.com:8081")
    assert reaches(found, "93.184.215.14", 8081)
    assert reaches(made("http://mirror.example.com"), "93.184.215.14", 80)
    assert not reaches(found, "10.0.0.7", 8081)


def test_a_range_that_is_listed_by_itself_is_open_though_a_wider_one_is_not() -> None:
    found = made(cidrs=["0.0.0.0/0", "10.20.0.0/16"])
    assert reaches(found, "10.20.0.7", 443)
    assert not reaches(found, "10.21.0.7", 443)
    assert not reaches(found, "169.254.169.254", 443)


def test_dns_that_is_no_pod_is_reached_on_its_port_alone() -> None:
    found = made(dns={"namespaces": [], "cidrs": ["169.254.169.254/32"], "ports": [53]})
    assert reaches(found, "169.254.169.254", 53)
    assert not reaches(found, "169.254.169.254", 80)
    assert not reaches(found, "169.254.20.10", 53)
    nowhere = made(dns={"namespaces": [], "cidrs": []})
    assert all(rule["to"] for rule in nowhere)
    assert not reaches(nowhere, "169.254.20.10", 53)


def test_without_ranges_only_dns_and_the_hub_are_reached() -> None:
    found = made("http://hub.models.svc", cidrs=[])
    assert not reaches(found, "93.184.215.14", 443)
    assert spaces(found) == {"models"}
    assert len(found) == 2


@pytest.mark.parametrize("cidr", ["169.254.169.254/32", "169.254.0.0/16", "fd00:ec2::254/128"])
def test_the_metadata_service_cannot_be_opened(cidr: str) -> None:
    with pytest.raises(ValidationError, match="never opened"):
        made(cidrs=[cidr])


def test_who_has_a_cloud_identity_may_ask_for_it_and_nobody_else() -> None:
    assert reaches(made(cloud_identity=True), "169.254.170.23", 80)
    assert not reaches(made(cloud_identity=True), "169.254.169.254", 80)
