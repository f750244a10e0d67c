"""Egress rules of the prepare pod for hub and egress settings of the chart."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.contracts.destinations import METADATA, forms
from finetune_operator.config import Settings
from finetune_operator.connections import NOT_PUBLIC, Proxy
from finetune_operator.manifests.egress import NAMESPACE_LABEL, destinations
from finetune_operator.manifests.egress import rules as render

IMAGES = {"trainer": "t", "serving": "s", "operator": "o"}


def configuration(hub: str = "", **egress: Any) -> Settings:
    return Settings.model_validate({"images": IMAGES, "hub": {"endpoint": hub}, "egress": egress})


def egress_rules(
    hub: str = "", *, cloud_identity: bool = False, **egress: Any
) -> list[dict[str, Any]]:
    return render(configuration(hub, **egress), cloud_identity=cloud_identity)


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


def open_namespaces(rules: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Return the open ports of each namespace, without DNS."""
    return {
        peer["namespaceSelector"]["matchLabels"][NAMESPACE_LABEL]: [
            port["port"] for port in rule["ports"]
        ]
        for rule in rules
        for peer in rule["to"]
        if "namespaceSelector" in peer and all(port["protocol"] == "TCP" for port in rule["ports"])
    }


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
        # Azure, Oracle Cloud and Scaleway.
        ("168.63.129.16", 443, False),
        ("192.0.0.192", 443, False),
        ("fd00:42::42", 443, False),
        # Reserved addresses of IPv4.
        ("0.0.0.0", 443, False),
        ("127.0.0.1", 443, False),
        ("192.88.99.1", 443, False),
        ("198.18.0.1", 443, False),
        ("224.0.0.1", 443, False),
        ("255.255.255.255", 443, False),
        # Addresses of IPv6 with an IPv4 address, and reserved addresses.
        ("64:ff9b::a00:1", 443, False),
        ("64:ff9b:1::a00:1", 443, False),
        ("2002:a00:1::1", 443, False),
        ("2001:0:a00:1::", 443, False),
        ("::1", 443, False),
        ("::10.0.0.1", 443, False),
        ("fec0::1", 443, False),
        ("fe80::1", 443, False),
        ("ff02::1", 443, False),
        ("100::1", 443, False),
    ],
)
def test_public_web_servers_are_allowed_by_default(address: str, port: int, open_: bool) -> None:
    assert allows(egress_rules(), address, port) is open_
    assert open_namespaces(egress_rules()) == {}


@pytest.mark.parametrize(
    ("hub", "port"),
    [
        ("http://hub.models.svc", 80),
        ("http://hub.models.svc:8080", 8080),
        ("https://hub.models.svc.cluster.local/", 443),
    ],
)
def test_a_hub_in_the_cluster_opens_only_its_port_in_its_namespace(hub: str, port: int) -> None:
    assert open_namespaces(egress_rules(hub)) == {"models": [port]}
    stores = [{"name": "stores", "ports": [9000]}, {"name": "models", "ports": [9001]}]
    assert open_namespaces(egress_rules(hub, namespaces=stores)) == {
        "models": sorted([port, 9001]),
        "stores": [9000],
    }
    assert not allows(egress_rules(hub), "10.0.0.7", 443)
    for elsewhere in (80, 8080):
        assert not allows(egress_rules(hub), "93.184.215.14", elsewhere)


def test_a_hub_at_a_private_address_opens_only_its_port() -> None:
    rules = egress_rules("http://10.20.0.7:8080")
    assert allows(rules, "10.20.0.7", 8080)
    assert not allows(rules, "10.20.0.7", 443)
    assert not allows(rules, "10.20.0.8", 8080)
    assert allows(egress_rules("http://[fd12::7]:8080"), "fd12::7", 8080)


def test_a_hub_with_a_host_name_opens_its_port_only_in_its_ranges() -> None:
    rules = egress_rules("http://mirror.example.com:8081", hubCidrs=["93.184.215.0/24", "10.0.0.7"])
    assert allows(rules, "93.184.215.14", 8081)
    assert allows(rules, "10.0.0.7", 8081)
    assert allows(rules, "93.184.215.14", 443)
    assert not allows(rules, "10.0.0.7", 443)
    assert not allows(rules, "93.184.216.14", 8081)
    assert not allows(egress_rules("http://mirror.example.com"), "93.184.215.14", 80)


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
    assert open_namespaces(rules) == {"models": [80]}
    assert len(rules) == 2


@pytest.mark.parametrize("cidr", ["169.254.169.254/32", "169.254.0.0/16", "fd00:ec2::254/128"])
def test_metadata_services_cannot_be_opened(cidr: str) -> None:
    with pytest.raises(ValidationError, match="remove this range"):
        egress_rules(cidrs=[cidr])
    with pytest.raises(ValidationError, match="remove this range"):
        egress_rules(hubCidrs=[cidr])


def test_a_cloud_identity_opens_the_pod_identity_agent() -> None:
    assert allows(egress_rules(cloud_identity=True), "169.254.170.23", 80)
    assert not allows(egress_rules(cloud_identity=True), "169.254.169.254", 80)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "hub at an address": {"hub": "http://10.20.0.7:8080"},
    "hub with a host name": {"hub": "http://mirror:8081", "hubCidrs": ["10.20.0.0/30"]},
    "private ranges": {"cidrs": ["0.0.0.0/0", "10.20.0.0/16", "fd12::/64"], "ports": [443, 9000]},
    "nothing excluded": {"excludedCidrs": []},
    "nothing": {"cidrs": []},
}


def edges() -> set[str]:
    """Return the first and last address of each range of the defaults, and their neighbours."""
    found = {"10.20.0.3", "10.20.0.4", "10.20.0.7", "fd12::1", "93.184.215.14", "2606:2800:21f::1"}
    for network in (*METADATA, *NOT_PUBLIC):
        ends = (network.network_address, network.broadcast_address)
        found |= {str(end) for end in ends}
        if int(ends[0]) > 0:
            found.add(str(ends[0] - 1))
        if int(ends[1]) < 2**network.max_prefixlen - 1:
            found.add(str(ends[1] + 1))
    return found


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_trainer_and_policy_agree_on_every_address(name: str) -> None:
    """The trainer is stricter only for an address that contains a forbidden IPv4 address."""
    config = configuration(**CONFIGURATIONS[name])
    policy = render(config, cloud_identity=True)
    trainer = destinations(config, cloud_identity=True)
    addresses = edges()
    assert len(addresses) > 80
    for text in addresses:
        for port in (80, 443, 8080, 8081, 9000):
            expected = all(allows(policy, str(form), port) for form in forms(ip_address(text)))
            assert trainer.allows(ip_address(text), port) is expected, (text, port)


@pytest.mark.parametrize(
    ("proxy", "peer"),
    [
        ({"url": "http://10.0.0.7:3128"}, {"ipBlock": {"cidr": "10.0.0.7/32"}}),
        (
            {"url": "http://proxy.example:3128", "cidrs": ["192.0.2.0/30"]},
            {"ipBlock": {"cidr": "192.0.2.0/30"}},
        ),
        (
            {"url": "http://squid.proxies.svc:3128"},
            {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: "proxies"}}},
        ),
    ],
    ids=["address", "name", "Service"],
)
def test_proxy_replaces_the_internet(proxy: dict[str, Any], peer: dict[str, Any]) -> None:
    config = configuration().model_copy(update={"proxy": Proxy.model_validate(proxy)})
    _dns, only = render(config, cloud_identity=False)
    assert only == {"to": [peer], "ports": [{"protocol": "TCP", "port": 3128}]}
    proxied = destinations(config, cloud_identity=False).proxied
    assert proxied is not None
    assert [str(block.cidr) for block in proxied.blocks] == ["0.0.0.0/0", "::/0"]


@pytest.mark.parametrize(
    ("hub", "no_proxy", "direct"),
    [
        ("https://hub.example:8443", [], False),
        ("https://hub.example:8443", ["hub.example"], True),
        ("https://hub.example:8443", [".example"], True),
        ("https://10.20.0.7:8443", [], False),
        ("https://10.20.0.7:8443", ["10.20.0.7"], True),
    ],
)
def test_hub_is_reached_through_the_proxy_or_without_it(
    hub: str, no_proxy: list[str], direct: bool
) -> None:
    config = configuration(hub, hubCidrs=["10.20.0.7/32"])
    proxy = Proxy(url="http://10.0.0.7:3128", no_proxy=no_proxy)
    config = config.model_copy(update={"proxy": proxy})
    found = destinations(config, cloud_identity=False)
    assert found.proxied is not None
    address = ip_address("10.20.0.7")
    assert found.allows(address, 8443) is direct
    assert (8443 in found.proxied.ports) is not direct
    assert any(block.allows(address, 8443) for block in found.proxied.blocks) is not direct


def test_narrow_ranges_and_services_are_reached_without_the_proxy() -> None:
    config = configuration(
        "http://hub.models.svc:8080",
        cidrs=["0.0.0.0/0", "10.20.0.0/24"],
        namespaces=[{"name": "stores", "ports": [9000]}],
    ).model_copy(update={"proxy": Proxy(url="http://10.0.0.7:3128")})
    rules = render(config, cloud_identity=False)
    assert allows(rules, "10.20.0.9", 443)
    assert not allows(rules, "93.184.215.14", 443)
    assert open_namespaces(rules) == {"models": [8080], "stores": [9000]}
