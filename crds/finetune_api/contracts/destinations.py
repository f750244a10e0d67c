"""Destinations that a prepare pod may reach, enforced twice.

The operator derives them from the chart's ``egress`` and ``hub`` values. It renders the
NetworkPolicy of the prepare pod from them, and passes them to the trainer, which checks every
connection itself: some network plugins enforce no NetworkPolicies.

If the chart sets a proxy, both allow connections to the proxy instead of the internet, and the
trainer also checks the host of each request: the proxy resolves its name.

A policy sees the port of the pod behind a Service; the trainer sees the address of the Service. So
the trainer recognizes a Service in a named namespace by its DNS name, and does not check its port.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pydantic import Field

from finetune_api.base import CamelModel

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

METADATA: tuple[Network, ...] = (
    IPv4Network("169.254.0.0/16"),
    IPv4Network("100.100.100.200/32"),
    IPv4Network("168.63.129.16/32"),
    IPv4Network("192.0.0.192/32"),
    IPv6Network("fe80::/10"),
    IPv6Network("fd00:ec2::254/128"),
    IPv6Network("fd20:ce::254/128"),
    IPv6Network("fd00:42::42/128"),
    IPv6Network("fd00:c1::a9fe:a9fe/128"),
)
"""Metadata services, which hand out the credentials of a node, and are never open: link-local
addresses, and those of Alibaba Cloud, Azure and Oracle Cloud (IPv4), and of AWS, Google Cloud,
Scaleway and Oracle Cloud (IPv6)."""

_LAST_32_BITS = (
    IPv6Network("64:ff9b::/96"),
    IPv6Network("64:ff9b:1::/48"),
    IPv6Network("::/96"),
)
"""NAT64 and IPv4-compatible addresses, whose last 32 bits are an IPv4 address."""


class Block(CamelModel):
    """A range of addresses without the excluded ranges in it, on some TCP ports."""

    cidr: Network
    excluded: tuple[Network, ...] = ()
    ports: tuple[int, ...]

    def allows(self, address: Address, port: int) -> bool:
        """Report whether the block contains the address and the port."""
        excluded = any(address in network for network in self.excluded)
        return port in self.ports and address in self.cidr and not excluded


class NamespacePorts(CamelModel):
    """TCP ports of all pods of a namespace."""

    name: str
    ports: tuple[int, ...] = Field(min_length=1)


class Proxied(CamelModel):
    """What a prepare pod may request from an HTTP proxy, and which hosts it reaches without it.

    ``direct`` are host names, domains and addresses. ``blocks`` apply to hosts that are addresses;
    ``ports`` apply to names, which only the proxy can resolve.
    """

    url: str
    direct: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    ports: tuple[int, ...] = ()


class Hosts(CamelModel):
    """Patterns of the hosts of sources, redirects included (``policy.limits``)."""

    allow: tuple[str, ...]
    deny: tuple[str, ...] = ()


class Destinations(CamelModel):
    """All destinations of a prepare pod, except DNS servers.

    The connections of the pod are in ``blocks`` and ``namespaces``; those to a proxy are, too.
    Without ``hosts``, every host is allowed; otherwise one that all of them allow.
    """

    blocks: tuple[Block, ...] = ()
    namespaces: tuple[NamespacePorts, ...] = ()
    proxied: Proxied | None = None
    hosts: Hosts | None = None
    narrower_hosts: tuple[Hosts, ...] = Field((), exclude_if=lambda hosts: not hosts)
    """Not written without an entry: images of earlier releases reject the field."""

    def allows(self, address: Address, port: int) -> bool:
        """Report whether blocks allow an address, and each IPv4 address that it contains."""
        return all(
            any(block.allows(form, port) for block in self.blocks) for form in forms(address)
        )

    def allows_service(self, namespace: str, address: Address) -> bool:
        """Report whether a Service in a namespace may be reached at the address of its DNS name."""
        return any(allowed.name == namespace for allowed in self.namespaces) and not any(
            form.is_loopback or form.is_unspecified or any(form in network for network in METADATA)
            for form in forms(address)
        )


def forms(address: Address) -> tuple[Address, ...]:
    """Return the addresses that a connection to an address may reach.

    The kernel opens an IPv4 connection to an IPv4-mapped address. A NAT64, 6to4 or Teredo gateway
    may forward to the IPv4 address in an IPv6 address.
    """
    if isinstance(address, IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address, address.sixtofour)
    if address.teredo is not None:
        return (address, *address.teredo)
    if int(address) > 1 and any(address in network for network in _LAST_32_BITS):
        return (address, IPv4Address(int(address) & 0xFFFFFFFF))
    return (address,)
