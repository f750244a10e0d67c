"""The check of connections and requests: addresses, Services, hosts behind a proxy."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.contracts.destinations import Destinations
from finetune_trainer.errors import EgressDenied
from finetune_trainer.sources.egress import Guard, domains

PUBLIC: dict[str, Any] = {"cidr": "0.0.0.0/0", "excluded": ["10.0.0.0/8"], "ports": [443]}


def guard(*blocks: dict[str, Any]) -> Guard:
    allowed = {"blocks": blocks, "namespaces": [{"name": "stores", "ports": [9000]}]}
    return Guard(Destinations.model_validate(allowed), domains=["cluster.local", "corp.example"])


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("93.184.215.14", 443, True),
        ("::ffff:93.184.215.14", 443, True),
        ("93.184.215.14", 80, False),
        ("10.0.0.1", 443, False),
        ("::ffff:10.0.0.1", 443, False),
        ("2606:2800:21f::1", 443, False),
        ("example.com", 443, False),
        ("", 443, False),
    ],
)
def test_addresses_are_checked(host: str, port: int, allowed: bool) -> None:
    assert guard(PUBLIC).allows(host, port) is allowed


def test_an_open_gateway_does_not_open_private_ipv4_addresses() -> None:
    found = guard(PUBLIC, {"cidr": "64:ff9b::/96", "ports": [443]})
    assert found.allows("64:ff9b::5db8:d70e", 443)
    assert not found.allows("64:ff9b::a00:1", 443)


@pytest.mark.parametrize(
    ("host", "address", "allowed"),
    [
        ("minio.stores.svc", "10.0.0.1", True),
        ("minio.stores.svc.cluster.local", "10.0.0.1", True),
        ("MINIO.stores.svc.corp.example.", "10.0.0.1", True),
        ("minio-0.minio.stores.svc", "fd12::1", True),
        ("minio.other.svc", "10.0.0.1", False),
        ("stores.svc", "10.0.0.1", False),
        ("minio.stores", "10.0.0.1", False),
        ("minio.stores.svc.example.com", "10.0.0.1", False),
        ("minio.stores.svc", "127.0.0.1", False),
        ("minio.stores.svc", "::ffff:169.254.169.254", False),
    ],
)
def test_services_in_named_namespaces_are_recognized_by_name(
    host: str, address: str, allowed: bool
) -> None:
    found = guard(PUBLIC)
    assert not found.allows(address, 9000)
    found.resolved(host, [address])
    assert found.allows(address, 9000) is allowed


def test_denial_names_host_address_and_values() -> None:
    found = guard(PUBLIC)
    found.resolved("data.example.com", ["10.0.0.1"])
    with pytest.raises(EgressDenied) as caught:
        found.check("10.0.0.1", 8443)
    assert "port 8443 of data.example.com with the address 10.0.0.1" in str(caught.value)
    assert "egress.cidrs" in str(caught.value)


def test_domains_are_those_of_the_search_list(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("search team-a.svc.c.example svc.c.example c.example\nnameserver 10.96.0.10\n")
    assert domains(file) == ["c.example"]
    assert domains(tmp_path / "missing") == []


PROXIED: dict[str, Any] = {
    "url": "http://10.0.0.7:3128",
    "direct": ["hub.corp.example", ".storage.example", "10.1.0.9"],
    "blocks": [PUBLIC | {"excluded": ["10.0.0.0/8", "169.254.0.0/16"]}],
    "ports": [443],
}


def behind_proxy(**hosts: list[str]) -> Guard:
    allowed = {
        "blocks": [{"cidr": "10.0.0.7/32", "ports": [3128]}],
        "namespaces": [{"name": "stores", "ports": [9000]}],
        "proxied": PROXIED,
        "hosts": {"allow": [".*"], **hosts},
    }
    return Guard(Destinations.model_validate(allowed), domains=["cluster.local"])


def test_only_the_proxy_may_be_connected() -> None:
    found = behind_proxy()
    assert found.allows("10.0.0.7", 3128)
    for host, port in (("10.0.0.7", 443), ("10.0.0.8", 3128), ("93.184.215.14", 443)):
        assert not found.allows(host, port)


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("huggingface.co", 443, True),
        ("huggingface.co", 8443, False),
        ("93.184.215.14", 443, True),
        ("10.0.0.1", 443, False),
        ("::ffff:10.0.0.1", 443, False),
        ("169.254.169.254", 443, False),
        ("intranet", 443, False),
        ("intranet.", 443, False),
        ("localhost", 443, False),
        ("metadata.google.internal", 443, False),
        ("default.svc", 443, False),
        # The proxy is not asked for these hosts; connections to them are checked.
        ("minio.stores.svc", 9000, True),
        ("kubernetes.default.svc", 443, True),
        ("hub.corp.example", 8443, True),
        ("a.storage.example", 8443, True),
        ("10.1.0.9", 8443, True),
    ],
)
def test_requests_are_checked_before_the_proxy_gets_them(
    host: str, port: int, allowed: bool
) -> None:
    found = behind_proxy()
    if allowed:
        found.check_request(host, port, chosen_by_job=True)
        return
    with pytest.raises(
        EgressDenied, match=rf"port {port} of .* through the proxy http://10\.0\.0\.7"
    ):
        found.check_request(host, port, chosen_by_job=False)


@pytest.mark.parametrize("host", ["denied.example", "denied.example."])
def test_policy_of_hosts_applies_to_hosts_that_a_job_chooses(host: str) -> None:
    for found in (behind_proxy(deny=["denied.example"]), behind_proxy(allow=[".*[.]org"])):
        with pytest.raises(EgressDenied, match=r"policy\.hosts does not allow the host denied"):
            found.check_request(host, 443, chosen_by_job=True)
        found.check_request(host, 443, chosen_by_job=False)


def test_a_host_must_be_in_all_limits() -> None:
    """Those of the profiles of a job narrow that of the chart."""
    allowed = {
        "hosts": {"allow": [".*[.]example"]},
        "narrowerHosts": [{"allow": ["a.*"]}, {"allow": [".*"], "deny": ["ab[.].*"]}],
    }
    found = Guard(Destinations.model_validate(allowed), domains=[])
    found.check_request("a.example", 443, chosen_by_job=True)
    for host in ("a.org", "b.example", "ab.example"):
        with pytest.raises(EgressDenied, match=r"limits\.hosts of the job's profile or the chart"):
            found.check_request(host, 443, chosen_by_job=True)
        found.check_request(host, 443, chosen_by_job=False)


def test_libraries_find_the_proxy_and_its_exceptions() -> None:
    variables = behind_proxy().proxy_variables()
    assert variables["https_proxy"] == variables["HTTP_PROXY"] == "http://10.0.0.7:3128"
    excepted = variables["no_proxy"].split(",")
    assert {"svc", "svc.cluster.local", "hub.corp.example", "storage.example"} <= set(excepted)
    assert guard(PUBLIC).proxy_variables() == {}
