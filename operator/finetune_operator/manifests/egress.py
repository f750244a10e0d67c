"""Egress rules of the prepare pod: DNS, the model hub, web servers, and configured destinations.

The chart's ``egress`` value configures them. A range in ``cidrs`` is open except for the ranges of
``excludedCidrs`` inside it. A narrower range that is listed next to a wide one is therefore open as
a whole: ``10.20.0.7/32`` opens one private address. The metadata services of clouds, which hand out
the credentials of the node, are never open.
"""

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from finetune_operator.config import METADATA, Network, OperatorConfig

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
POD_IDENTITY = "169.254.170.23/32"
"""Address of the EKS Pod Identity agent, which serves the credentials of the pod's own service
account only."""


def dns(config: OperatorConfig) -> list[dict[str, Any]]:
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


def rules(config: OperatorConfig, *, cloud_identity: bool) -> list[dict[str, Any]]:
    """Return the egress rules of the prepare pod.

    cloud_identity: whether the pod has its own service account and requests cloud credentials.
    """
    host, port = _hub(config.hub.endpoint)
    ports = sorted({*config.egress.ports, *([port] if host else [])})
    open_namespaces = [*config.egress.namespaces]
    blocks = [_block(cidr, config) for cidr in config.egress.cidrs]
    egress = dns(config)
    if (namespace := _namespace_of(host)) is not None:
        open_namespaces.append(namespace)
    elif (address := _address(host)) is not None:
        egress.append({"to": [{"ipBlock": {"cidr": address}}], "ports": _tcp(port)})
    if open_namespaces:
        # No port: a policy sees the port of the pod, which may differ from the port of the Service.
        egress.append({"to": [namespaces(*open_namespaces)]})
    if blocks:
        egress.append({"to": blocks, "ports": _tcp(*ports)})
    if cloud_identity:
        egress.append({"to": [{"ipBlock": {"cidr": POD_IDENTITY}}], "ports": _tcp(80)})
    return egress


def namespaces(*names: str) -> dict[str, Any]:
    """Return the peer that selects every pod of the namespaces."""
    if len(set(names)) == 1:
        return {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: names[0]}}}
    expression = {"key": NAMESPACE_LABEL, "operator": "In", "values": sorted(set(names))}
    return {"namespaceSelector": {"matchExpressions": [expression]}}


def _hub(endpoint: str) -> tuple[str, int]:
    """Return host and port of the hub; an empty host means the public hub."""
    parts = urlsplit(endpoint)
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)


def _namespace_of(host: str) -> str | None:
    """Return the namespace of a Service name such as ``hub.models.svc``, None for other names."""
    parts = host.split(".")
    return parts[1] if len(parts) > 2 and parts[2] == "svc" else None


def _address(host: str) -> str | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return f"{address}/{address.max_prefixlen}"


def _block(cidr: Network, config: OperatorConfig) -> dict[str, Any]:
    excluded = [*METADATA, *config.egress.excluded_cidrs]
    inside = [each for each in excluded if each.version == cidr.version and _within(each, cidr)]
    block: dict[str, Any] = {"cidr": str(cidr)}
    if inside:
        block["except"] = list(dict.fromkeys(map(str, inside)))
    return {"ipBlock": block}


def _within(inner: Network, outer: Network) -> bool:
    return inner != outer and inner.subnet_of(outer)  # type: ignore[arg-type]


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]
