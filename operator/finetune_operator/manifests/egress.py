"""Whom the stage pod may reach: DNS, the hub, the internet's web servers, and what is listed.

The chart's ``egress`` says which. A range that is listed in ``cidrs`` is open but for those of
``excludedCidrs`` within it, so a narrower one that is listed beside a wide one is open as a whole:
``10.20.0.7/32`` opens one private address. Where clouds answer a pod's questions about its node's
identity is never open.
"""

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from finetune_operator.config import METADATA, Network, OperatorConfig

NAMESPACE = "kubernetes.io/metadata.name"
POD_IDENTITY = "169.254.170.23/32"
"""Where EKS answers a pod about the identity of its own service account, and of no other."""


def dns(config: OperatorConfig) -> list[dict[str, Any]]:
    """Return the rule that lets a pod ask the cluster's DNS, and nobody else."""
    known = config.egress.dns
    peers = [namespaces(*known.namespaces)] if known.namespaces else []
    peers += [{"ipBlock": {"cidr": str(cidr)}} for cidr in known.cidrs]
    ports = [
        {"protocol": protocol, "port": port} for port in known.ports for protocol in ("UDP", "TCP")
    ]
    # A rule without peers would open the ports of everybody.
    return [{"to": peers, "ports": ports}] if peers else []


def rules(config: OperatorConfig, *, cloud_identity: bool) -> list[dict[str, Any]]:
    """Return the egress rules of a stage pod.

    cloud_identity: whether it has a service account of its own, for which it asks the cloud.
    """
    host, port = _hub(config.hub.endpoint)
    ports = sorted({*config.egress.ports, *([port] if host else [])})
    within = [*config.egress.namespaces]
    outside = [_block(cidr, config) for cidr in config.egress.cidrs]
    wanted = dns(config)
    if (namespace := _namespace_of(host)) is not None:
        within.append(namespace)
    elif (address := _address(host)) is not None:
        wanted.append({"to": [{"ipBlock": {"cidr": address}}], "ports": _tcp(port)})
    if within:
        # A Service's port is not the pod's, which the policy would have to name.
        wanted.append({"to": [namespaces(*within)]})
    if outside:
        wanted.append({"to": outside, "ports": _tcp(*ports)})
    if cloud_identity:
        wanted.append({"to": [{"ipBlock": {"cidr": POD_IDENTITY}}], "ports": _tcp(80)})
    return wanted


def namespaces(*wanted: str) -> dict[str, Any]:
    """Return the peer that stands for every pod of some namespaces."""
    if len(set(wanted)) == 1:
        return {"namespaceSelector": {"matchLabels": {NAMESPACE: wanted[0]}}}
    target = {"key": NAMESPACE, "operator": "In", "values": sorted(set(wanted))}
    return {"namespaceSelector": {"matchExpressions": [target]}}


def _hub(endpoint: str) -> tuple[str, int]:
    """Return host and port of the hub; no host means the public one."""
    parts = urlsplit(endpoint)
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)


def _namespace_of(host: str) -> str | None:
    """Return the namespace of a Service's name, ``hub.models.svc`` or longer; None of others."""
    words = host.split(".")
    return words[1] if len(words) > 2 and words[2] == "svc" else None


def _address(host: str) -> str | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return f"{address}/{address.max_prefixlen}"


def _block(cidr: Network, config: OperatorConfig) -> dict[str, Any]:
    closed = [*METADATA, *config.egress.excluded_cidrs]
    inside = [each for each in closed if each.version == cidr.version and _within(each, cidr)]
    block: dict[str, Any] = {"cidr": str(cidr)}
    if inside:
        block["except"] = list(dict.fromkeys(map(str, inside)))
    return {"ipBlock": block}


def _within(inner: Network, outer: Network) -> bool:
    return inner != outer and inner.subnet_of(outer)  # type: ignore[arg-type]


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]
