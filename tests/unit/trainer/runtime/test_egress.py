"""The check of network connections: addresses, names of Services, and the search list."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.contracts.destinations import Destinations
from finetune_trainer.errors import EgressDenied
from finetune_trainer.runtime.egress import Guard, domains

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
