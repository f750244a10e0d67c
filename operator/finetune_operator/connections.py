"""The servers to which pods of jobs connect, and the addresses that NetworkPolicies allow them.

The chart configures the hub, the proxy and the egress; jobs name the servers to which they publish.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from finetune_api.base import CamelModel
from finetune_api.contracts.destinations import METADATA, NamespacePorts, Network


def _reject_metadata_services(cidrs: list[Network]) -> list[Network]:
    for cidr in cidrs:
        for service in METADATA:
            if cidr.version == service.version and cidr.subnet_of(service):  # type: ignore[arg-type]
                raise ValueError(
                    f"{cidr} contains only addresses of cloud metadata services, which hand out "
                    "the credentials of the node: remove this range"
                )
    return cidrs


Ranges = Annotated[list[Network], AfterValidator(_reject_metadata_services)]


class Endpoint(CamelModel):
    """A server that prepare pods connect to."""

    @property
    def _address(self) -> str:
        raise NotImplementedError

    @property
    def host(self) -> str:
        """Host of the URL; empty without a URL."""
        return urlsplit(self._address).hostname or ""

    @property
    def port(self) -> int:
        """Port of the URL."""
        parts = urlsplit(self._address)
        return parts.port or (80 if parts.scheme == "http" else 443)

    @property
    def address(self) -> Network | None:
        """The host as a range with one address, None if it is a name."""
        try:
            return ip_network(self.host)
        except ValueError:
            return None

    @property
    def namespace(self) -> str | None:
        """Namespace of the host if it is a Service, such as ``hub.models.svc``."""
        parts = self.host.split(".")
        return parts[1] if len(parts) > 2 and parts[2] == "svc" else None

    @property
    def is_outside_name(self) -> bool:
        """Whether the host is a name outside the cluster, which no NetworkPolicy can select."""
        return bool(self.host) and self.namespace is None and self.address is None


PUBLIC_HUB = "https://huggingface.co"


class Hub(Endpoint):
    """The model hub; an empty endpoint means the public hub."""

    endpoint: str = ""

    @property
    def url(self) -> str:
        """URL without a slash at its end."""
        return self.endpoint.rstrip("/") or PUBLIC_HUB

    @property
    def is_public(self) -> bool:
        """Whether it is the public hub."""
        return self.url == PUBLIC_HUB

    def place(self, repository: str) -> str:
        """Return the place of a repository as one text. Another hub is another place."""
        return f"hf://{repository}" if self.is_public else f"hf+{self.url}/{repository}"

    @property
    def _address(self) -> str:
        return self.endpoint


class Proxy(Endpoint):
    """The HTTP proxy of the prepare pods; an empty URL means none.

    ``cidrs`` are the addresses of a proxy whose host is a name outside the cluster. ``no_proxy``
    are host names, domains and addresses that prepare pods reach without the proxy.
    """

    url: str = ""
    cidrs: Ranges = Field(default_factory=list)
    no_proxy: list[str] = Field(default_factory=list)

    @property
    def _address(self) -> str:
        return self.url

    def serves(self, endpoint: Endpoint) -> bool:
        """Report whether prepare pods reach a server, which is no Service, through the proxy."""
        if not self.url or endpoint.namespace is not None:
            return False
        names = [name.lower().lstrip(".") for name in self.no_proxy]
        return not any(
            endpoint.host == name or endpoint.host.endswith(f".{name}") for name in names
        )


class Server(Endpoint):
    """A server to which a job publishes."""

    url: str

    @property
    def _address(self) -> str:
        return self.url


NODE_LOCAL_DNS: tuple[Network, ...] = (IPv4Network("169.254.20.10/32"),)
INTERNET: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
NOT_PUBLIC: tuple[Network, ...] = (
    *map(
        IPv4Network,
        (
            *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
            *("0.0.0.0/8", "127.0.0.0/8", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15"),
            *("224.0.0.0/4", "240.0.0.0/4"),
        ),
    ),
    *map(
        IPv6Network,
        (
            *("fc00::/7", "fec0::/10", "::/96", "100::/64", "ff00::/8"),
            *("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"),
        ),
    ),
)
"""Private and reserved ranges, and IPv6 ranges through which a gateway reaches IPv4 addresses. No
packet has an IPv4-mapped address (::ffff:0:0/96), so a NetworkPolicy need not exclude it."""


class Dns(CamelModel):
    """DNS servers of the cluster: pods of these namespaces, and these addresses, on these ports.

    The defaults are the pods of kube-system and NodeLocal DNSCache. A NetworkPolicy sees the port
    of the pod, which is 5353 in some clusters.
    """

    namespaces: list[str] = Field(default_factory=lambda: ["kube-system"])
    cidrs: list[Network] = Field(default_factory=lambda: list(NODE_LOCAL_DNS))
    ports: list[int] = Field(default_factory=lambda: [53, 5353], min_length=1)


class Egress(CamelModel):
    """Destinations that prepare pods may reach in addition to the hub (``manifests.egress``).

    The default is port 443 on all public addresses. ``hub_cidrs`` are the addresses of a hub whose
    endpoint is a host name outside the cluster: no policy can select a host name.
    """

    dns: Dns = Dns()
    cidrs: Ranges = Field(default_factory=lambda: list(INTERNET))
    excluded_cidrs: list[Network] = Field(default_factory=lambda: list(NOT_PUBLIC))
    ports: list[int] = Field(default_factory=lambda: [443])
    namespaces: list[NamespacePorts] = Field(default_factory=list)
    hub_cidrs: Ranges = Field(default_factory=list)
