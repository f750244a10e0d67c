"""The destinations of a prepare pod: blocks, Services, and IPv4 addresses in IPv6 ones."""

from ipaddress import ip_address, ip_network

import pytest

from finetune_api.contracts.destinations import METADATA, Block, Destinations, NamespacePorts, forms

BLOCK = Block(
    cidr=ip_network("10.0.0.0/8"),
    excluded=(ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16")),
    ports=(80, 443),
)


@pytest.mark.parametrize(
    ("address", "port", "allowed"),
    [
        ("10.0.0.1", 443, True),
        ("10.0.0.1", 80, True),
        ("10.0.0.1", 22, False),
        ("11.0.0.1", 443, False),
        ("10.1.0.1", 443, False),
        ("10.2.0.1", 443, False),
        ("::ffff:10.0.0.1", 443, True),
        ("::ffff:10.1.0.1", 443, False),
    ],
)
def test_a_block_allows_addresses_on_its_ports(address: str, port: int, allowed: bool) -> None:
    assert Destinations(blocks=(BLOCK,)).allows(ip_address(address), port) is allowed


def test_an_address_is_allowed_only_with_the_address_in_it() -> None:
    everything = Block(cidr=ip_network("::/0"), ports=(443,))
    public = Block(cidr=ip_network("93.0.0.0/8"), ports=(443,))
    allowed = Destinations(blocks=(everything, public))
    assert allowed.allows(ip_address("64:ff9b::93.1.1.1"), 443) is True
    assert allowed.allows(ip_address("64:ff9b::10.1.1.1"), 443) is False


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1", ["10.0.0.1"]),
        ("2001:db8::1", ["2001:db8::1"]),
        ("::ffff:10.0.0.1", ["10.0.0.1"]),
        ("2002:a00:1::", ["2002:a00:1::", "10.0.0.1"]),
        (
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            ["2001:0:4136:e378:8000:63bf:3fff:fdd2", "65.54.227.120", "192.0.2.45"],
        ),
        ("64:ff9b::a00:1", ["64:ff9b::a00:1", "10.0.0.1"]),
        ("64:ff9b:1::a00:1", ["64:ff9b:1::a00:1", "10.0.0.1"]),
        ("::a00:1", ["::a00:1", "10.0.0.1"]),
        ("::2", ["::2", "0.0.0.2"]),
        ("::1", ["::1"]),
        ("::", ["::"]),
    ],
)
def test_addresses_that_a_connection_may_reach(address: str, expected: list[str]) -> None:
    assert [str(each) for each in forms(ip_address(address))] == expected


@pytest.mark.parametrize(
    ("namespace", "address", "allowed"),
    [
        ("minio", "10.96.0.7", True),
        ("other", "10.96.0.7", False),
        ("minio", "127.0.0.1", False),
        ("minio", "0.0.0.0", False),
        ("minio", "::", False),
        ("minio", "169.254.169.254", False),
        ("minio", "::ffff:169.254.169.254", False),
        ("minio", "64:ff9b::a9fe:a9fe", False),
    ],
)
def test_a_service_is_recognized_by_its_namespace(
    namespace: str, address: str, allowed: bool
) -> None:
    found = Destinations(
        namespaces=(
            NamespacePorts(name="hub", ports=(80,)),
            NamespacePorts(name="minio", ports=(9000,)),
        )
    )
    assert found.allows_service(namespace, ip_address(address)) is allowed


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fe80::1",
        "febf::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:42::42",
        "fd00:c1::a9fe:a9fe",
    ],
)
def test_metadata_services_of_clouds_are_known(address: str) -> None:
    """The addresses that the clouds document."""
    assert [each for each in METADATA if ip_address(address) in each]


def test_metadata_services_are_single_addresses_or_link_local() -> None:
    wide = {each for each in METADATA if each.num_addresses > 1}
    assert {str(each) for each in wide} == {"169.254.0.0/16", "fe80::/10"}
