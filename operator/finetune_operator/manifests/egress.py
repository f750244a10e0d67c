"""Egress rules of the prepare pod: DNS, the model hub, web servers, and configured destinations.

Those of the publish pod are the same for narrower settings (``for_targets``).

The chart's ``egress`` value configures them. A range in ``cidrs`` is open except for the ranges of
``excludedCidrs`` inside it. A narrower range that is listed next to a wide one is therefore open as
a whole: ``10.20.0.7/32`` opens one private address. The metadata services of clouds, which hand out
the credentials of the node, are never open. The port of the hub is open only towards the hub.

With a proxy, the ranges of the whole internet in ``cidrs`` are what the proxy may be asked for, and
the pod itself connects to the proxy instead.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network
from typing import Any

from finetune_api.contracts.destinations import (
    METADATA,
    Block,
    Destinations,
    Hosts,
    NamespacePorts,
    Network,
    Proxied,
)
from finetune_api.policy.limits import ANYTHING, MOST_PATTERNS, Names
from finetune_operator.config import Settings
from finetune_operator.connections import Egress, Endpoint, Hub, Server

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
POD_IDENTITY = IPv4Network("169.254.170.23/32")
"""Address of the EKS Pod Identity agent, which serves the credentials of the pod's own service
account only."""
ESCAPED_DOT = r"\."
HOST_NAME = re.compile(r"[A-Za-z0-9.-]+")
MOST_CONFIGURATIONS = 256
"""Configurations whose rules are remembered: every reconcile compares the policies of its job."""


@lru_cache(maxsize=MOST_CONFIGURATIONS)
def dns(config: Settings) -> list[dict[str, Any]]:
    """Return the rule that lets a pod reach the cluster's DNS only."""
    servers = config.egress.dns
    peers = [namespaces(*servers.namespaces)] if servers.namespaces else []
    peers += [{"ipBlock": {"cidr": str(cidr)}} for cidr in servers.cidrs]
    ports = [
        {"protocol": protocol, "port": port}
        for port in servers.ports
        for protocol in ("UDP", "TCP")
    ]
    # A rule without peers would allow these ports to every destination.
    return [{"to": peers, "ports": ports}] if peers else []


@lru_cache(maxsize=MOST_CONFIGURATIONS)
def destinations(
    config: Settings,
    *,
    cloud_identity: bool,
    hosts: tuple[Names, ...] = (),
    one_limit: bool = False,
) -> Destinations:
    """Return the destinations of the prepare pod.

    cloud_identity: whether the pod has its own service account and requests cloud credentials;
    hosts: limits of the profiles of the job, besides the policy; one_limit: whether the image of
    the pod reads one limit alone.
    """
    hub, proxy, egress = config.hub, config.proxy, config.egress
    namespaces = [*egress.namespaces, *_in_cluster(hub), *_in_cluster(proxy)]
    ports: dict[str, set[int]] = {}
    for namespace in namespaces:
        ports.setdefault(namespace.name, set()).update(namespace.ports)
    web = [_block(cidr, egress, egress.ports) for cidr in egress.cidrs]
    hub_blocks = _outside(hub, egress.hub_cidrs, egress)
    proxied = None
    if proxy.url:
        through = [*web, *hub_blocks] if proxy.serves(hub) else web
        proxied = Proxied(
            url=proxy.url,
            direct=tuple(proxy.no_proxy),
            blocks=tuple(block for block in through if block.ports),
            ports=tuple(sorted({*egress.ports, *([hub.port] if proxy.serves(hub) else [])})),
        )
        web = [block for block in web if block.cidr.prefixlen]
    limits = _hosts([config.policy.hosts, *hosts])
    policy, *narrower = [_together(limits)] if one_limit and len(limits) > 1 else limits
    blocks = [*web, *_outside(proxy, proxy.cidrs, egress)]
    if not proxy.serves(hub):
        blocks += hub_blocks
    if cloud_identity:
        blocks.append(Block(cidr=POD_IDENTITY, ports=(80,)))
    return Destinations(
        blocks=tuple(block for block in blocks if block.ports),
        namespaces=tuple(
            NamespacePorts(name=name, ports=tuple(sorted(ports[name]))) for name in sorted(ports)
        ),
        proxied=proxied,
        hosts=policy,
        narrower_hosts=tuple(narrower),
    )


@lru_cache(maxsize=MOST_CONFIGURATIONS)
def rules(config: Settings, *, cloud_identity: bool) -> list[dict[str, Any]]:
    """Return the egress rules of the prepare pod. cloud_identity: as in ``destinations``."""
    allowed = destinations(config, cloud_identity=cloud_identity)
    blocks: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for block in allowed.blocks:
        blocks.setdefault(block.ports, []).append(_ip_block(block))
    return [
        *dns(config),
        *(
            {"to": [namespaces(namespace.name)], "ports": _tcp(namespace.ports)}
            for namespace in allowed.namespaces
        ),
        *({"to": peers, "ports": _tcp(ports)} for ports, peers in blocks.items()),
    ]


@lru_cache(maxsize=MOST_CONFIGURATIONS)
def for_targets(config: Settings, urls: tuple[str, ...], *, hub: Hub | None = None) -> Settings:
    """Return the settings with which ``destinations`` and ``rules`` are those of the publish pod.

    The pod reaches only the namespaces that a target names, and addresses outside the cluster only
    if a target is there. urls: of the targets. hub: of the targets, None if none is on a hub, which
    the pod does not reach then.
    """
    servers = [Server(url=url) for url in urls]
    named = {server.namespace for server in servers}
    egress = config.egress
    narrowed = egress.model_copy(
        update={
            "namespaces": [namespace for namespace in egress.namespaces if namespace.name in named],
            "cidrs": egress.cidrs if None in named else [],
            "hub_cidrs": egress.hub_cidrs if hub else [],
        }
    )
    return config.model_copy(update={"egress": narrowed, "hub": hub or Hub()})


def namespaces(*names: str) -> dict[str, Any]:
    """Return the peer that selects every pod of the namespaces."""
    if len(set(names)) == 1:
        return {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: names[0]}}}
    expression = {"key": NAMESPACE_LABEL, "operator": "In", "values": sorted(set(names))}
    return {"namespaceSelector": {"matchExpressions": [expression]}}


def _hosts(limits: Iterable[Names]) -> list[Hosts]:
    """Return the limits on hosts, without those that allow all; at least one.

    The first one stands in the place that images of every release read.
    """
    narrow = [limit for limit in limits if limit != Names()] or [Names()]
    return [Hosts(allow=limit.allow, deny=limit.deny) for limit in dict.fromkeys(narrow)]


def _together(limits: Sequence[Hosts]) -> Hosts:
    """Return one limit that allows no host which any of some limits refuses.

    Patterns that limits share are kept, and plain names that all of them allow. A host that only
    different patterns allow is refused: no list of patterns is the intersection of two others. So
    is every host if one list cannot hold the refused ones.
    """
    allowed = [Names(allow=limit.allow) for limit in limits]

    def shared(pattern: str) -> bool:
        name = pattern.replace(ESCAPED_DOT, ".")
        plain = bool(HOST_NAME.fullmatch(name)) and "." not in pattern.replace(ESCAPED_DOT, "")
        return all(
            not {pattern, ANYTHING}.isdisjoint(names.allow) or (plain and names.permits(name))
            for names in allowed
        )

    patterns = dict.fromkeys(pattern for limit in limits for pattern in limit.allow)
    kept = tuple(pattern for pattern in patterns if shared(pattern))[:MOST_PATTERNS]
    refused = tuple(dict.fromkeys(pattern for limit in limits for pattern in limit.deny))
    if len(refused) > MOST_PATTERNS:
        return Hosts(allow=())
    return Hosts(allow=kept, deny=refused)


def _in_cluster(server: Endpoint) -> list[NamespacePorts]:
    """Return the namespace and port of a server that is a Service."""
    if server.namespace is None:
        return []
    return [NamespacePorts(name=server.namespace, ports=(server.port,))]


def _outside(server: Endpoint, cidrs: Iterable[Network], egress: Egress) -> list[Block]:
    """Return the blocks of a server that is no Service. cidrs: its addresses if it is a name."""
    if server.address is not None:
        return [Block(cidr=server.address, ports=(server.port,))]
    if not server.is_outside_name:
        return []
    return [_block(cidr, egress, [server.port]) for cidr in cidrs]


def _block(cidr: Network, egress: Egress, ports: Iterable[int]) -> Block:
    excluded = [*METADATA, *egress.excluded_cidrs]
    inside = [
        network
        for network in excluded
        if network.version == cidr.version and _within(network, cidr)
    ]
    return Block(cidr=cidr, excluded=tuple(dict.fromkeys(inside)), ports=tuple(sorted(set(ports))))


def _within(inner: Network, outer: Network) -> bool:
    return inner != outer and inner.subnet_of(outer)  # type: ignore[arg-type]


def _ip_block(block: Block) -> dict[str, Any]:
    peer: dict[str, Any] = {"cidr": str(block.cidr)}
    if block.excluded:
        peer["except"] = list(map(str, block.excluded))
    return {"ipBlock": peer}


def _tcp(ports: Iterable[int]) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]
