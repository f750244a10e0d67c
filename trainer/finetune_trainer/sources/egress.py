"""Checks each network connection of the process against the destinations that the operator allows.

NetworkPolicies have the same rules; this check also works where the network plugin enforces none.
It is an audit hook of the interpreter, which runs before every ``connect`` of every library, with
the address to which the socket then connects. So it covers redirects, and a DNS name that resolves
to another address at each lookup. The hook cannot be removed.

With a proxy, the process connects to the proxy, which resolves the names of hosts. So sources
announce each request, redirects included, and the hook checks its host, too.
"""

import os
import socket
import sys
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from finetune_api.contracts.destinations import Address, Destinations, forms
from finetune_api.policy.limits import Names
from finetune_trainer.errors import EgressDenied

RESOLVER = Path("/etc/resolv.conf")
INTERNET = (socket.AF_INET, socket.AF_INET6)
SENT = ("socket.connect", "socket.sendto", "socket.sendmsg")
"""Audit events with the address that a socket sends to; a connected one may send without."""
REQUEST = "finetune_trainer.request"
"""Audit event of a request: its host, its port, and whether the job chose the host."""
LOCAL = (".localhost", ".local", ".internal", ".svc")
"""Domains that do not exist on the internet; a proxy may resolve them to private addresses."""
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY")
POD_IDENTITY = "169.254.170.23"
"""The agent on the node that serves the credentials of the pod; no proxy reaches it."""


def announce(url: str, *, chosen_by_job: bool) -> None:
    """Announce a request before it is sent. Raise EgressDenied if its host is not allowed.

    chosen_by_job: whether the host is that of a source of the job, or of a redirect by its server,
    so that the chart's policy.hosts applies.
    """
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    sys.audit(REQUEST, (parts.hostname or "").lower(), port, chosen_by_job)


class Guard:
    """The check of one process.

    domains: the DNS domains of the cluster; a Service has the name ``<name>.<namespace>.svc``, with
    or without one of them.
    """

    def __init__(self, allowed: Destinations, *, domains: Iterable[str]) -> None:
        self._allowed = allowed
        self._domains = tuple(domains)
        lists = () if allowed.hosts is None else (allowed.hosts, *allowed.narrower_hosts)
        self._names = [Names(allow=hosts.allow, deny=hosts.deny) for hosts in lists]
        self._suffixes = (".svc", *(f".svc.{domain}" for domain in self._domains))
        self._hosts: dict[str, str] = {}
        self._services: set[Address] = set()

    def install(self) -> None:
        """Check all connections of this process from now on, until its end."""
        os.environ.update(self.proxy_variables())
        resolve = socket.getaddrinfo

        def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
            answers = resolve(host, *arguments, **options)
            self.resolved(_text(host), (str(answer[4][0]) for answer in answers))
            # Clients try the next address after a failure, but not after a denial.
            return [answer for answer in answers if self.allows(*answer[4][:2])] or answers

        socket.getaddrinfo = getaddrinfo
        sys.addaudithook(self._audit)

    def proxy_variables(self) -> Mapping[str, str]:
        """Return the environment variables by which libraries find the proxy; none without it."""
        proxied = self._allowed.proxied
        if proxied is None:
            return {}
        services = [suffix.removeprefix(".") for suffix in self._suffixes]
        direct = ["localhost", "127.0.0.1", POD_IDENTITY, *services]
        # A leading dot would exclude the domain itself for some libraries.
        direct += [host.removeprefix(".") for host in proxied.direct]
        values = dict.fromkeys(PROXY_VARIABLES, proxied.url) | {"NO_PROXY": ",".join(direct)}
        return values | {name.lower(): value for name, value in values.items()}

    def resolved(self, host: str, addresses: Iterable[str]) -> None:
        """Record the addresses of a host name."""
        namespace = self._namespace_of(host)
        for text in addresses:
            address = ip_address(text)
            self._hosts[text] = host
            if namespace is not None and self._allowed.allows_service(namespace, address):
                self._services.add(address)

    def allows(self, host: str, port: int) -> bool:
        """Report whether a connection to an address is allowed; False for a name."""
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return address in self._services or self._allowed.allows(address, port)

    def check(self, host: str, port: int) -> None:
        """Raise EgressDenied if a connection to an address is not allowed."""
        if self.allows(host, port):
            return
        name = self._hosts.get(host, host)
        what = host if name == host else f"{name} with the address {host}"
        raise EgressDenied(
            f"the egress values of the operator's chart do not allow connections to port {port} of "
            f"{what}. Use another source, or let an administrator add the address to egress.cidrs "
            "and the port to egress.ports. For a Service of this cluster, the administrator "
            "instead adds the namespace of the Service and the port of its pods to "
            "egress.namespaces"
        )

    def check_request(self, host: str, port: int, *, chosen_by_job: bool) -> None:
        """Raise EgressDenied if a host may not be requested, by the policy or from the proxy."""
        name = host.removesuffix(".")
        if chosen_by_job and not all(names.permits(name) for names in self._names):
            raise EgressDenied(
                "limits.hosts of the job's profile or the chart's policy.hosts does not allow the "
                f"host {host}. Use another source, or let an administrator add the host there"
            )
        proxied = self._allowed.proxied
        if proxied is None or self._namespace_of(host) is not None:
            return
        # Libraries do not use the proxy for these hosts; the check of connections applies to them.
        direct = [host_suffix.lower().removeprefix(".") for host_suffix in proxied.direct]
        if any(host == host_suffix or host.endswith(f".{host_suffix}") for host_suffix in direct):
            return
        try:
            address = ip_address(host)
        except ValueError:
            name = f".{host.rstrip('.')}"
            allowed = port in proxied.ports and name.count(".") > 1 and not name.endswith(LOCAL)
        else:
            allowed_forms = (
                any(block.allows(form, port) for block in proxied.blocks) for form in forms(address)
            )
            allowed = all(allowed_forms)
        if not allowed:
            raise EgressDenied(
                f"the egress values of the operator's chart do not allow requests to port {port} "
                f"of {host} through the proxy {proxied.url}. Use another source, or let an "
                "administrator extend one of these chart values: egress.cidrs (with the address), "
                "egress.ports (with the port) or proxy.noProxy (with the host)"
            )

    def _namespace_of(self, host: str) -> str | None:
        name = host.lower().rstrip(".")
        for suffix in self._suffixes:
            labels = name.removesuffix(suffix).split(".")
            if name.endswith(suffix) and len(labels) > 1:
                return labels[-1]
        return None

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == REQUEST:
            host, port, chosen_by_job = arguments
            self.check_request(host, port, chosen_by_job=chosen_by_job)
        elif event in SENT and arguments[0].family in INTERNET and arguments[1] is not None:
            self.check(_text(arguments[1][0]), arguments[1][1])


def domains(resolver: Path = RESOLVER) -> list[str]:
    """Return the DNS domains of the cluster, from the search list of the resolver."""
    try:
        lines = resolver.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    words = [line.split() for line in lines]
    searched = [domain for line in words if line[:1] == ["search"] for domain in line[1:]]
    return [domain.removeprefix("svc.") for domain in searched if domain.startswith("svc.")]


def _text(host: Any) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")
