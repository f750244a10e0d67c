"""Checks each network connection of the process against the destinations that the operator allows.

NetworkPolicies have the same rules; this check also works where the network plugin enforces none.
It is an audit hook of the interpreter, which runs before every ``connect`` of every library, with
the address to which the socket then connects. So it covers redirects, and a DNS name that resolves
to another address at each lookup. The hook cannot be removed.
"""

import socket
import sys
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from finetune_api.contracts.destinations import Address, Destinations
from finetune_trainer.errors import EgressDenied

RESOLVER = Path("/etc/resolv.conf")
INTERNET = (socket.AF_INET, socket.AF_INET6)


class Guard:
    """The check of one process.

    domains: the DNS domains of the cluster; a Service has the name ``<name>.<namespace>.svc``, with
    or without one of them.
    """

    def __init__(self, allowed: Destinations, *, domains: Iterable[str]) -> None:
        self._allowed = allowed
        self._suffixes = (".svc", *(f".svc.{domain}" for domain in domains))
        self._hosts: dict[str, str] = {}
        self._services: set[Address] = set()

    def install(self) -> None:
        """Check all connections of this process from now on, until its end."""
        resolve = socket.getaddrinfo

        def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
            found = resolve(host, *arguments, **options)
            self.resolved(_text(host), (str(each[4][0]) for each in found))
            # Clients try the next address after a failure, but not after a denial.
            return [each for each in found if self.allows(*each[4][:2])] or found

        socket.getaddrinfo = getaddrinfo
        sys.addaudithook(self._audit)

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
            "and the port to egress.ports, or the namespace of a Service to egress.namespaces"
        )

    def _namespace_of(self, host: str) -> str | None:
        name = host.lower().rstrip(".")
        for suffix in self._suffixes:
            labels = name.removesuffix(suffix).split(".")
            if name.endswith(suffix) and len(labels) > 1:
                return labels[-1]
        return None

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto") and arguments[0].family in INTERNET:
            self.check(_text(arguments[1][0]), arguments[1][1])


def domains(resolver: Path = RESOLVER) -> list[str]:
    """Return the DNS domains of the cluster, from the search list of the resolver."""
    try:
        lines = resolver.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    words = [line.split() for line in lines]
    searched = [each for line in words if line[:1] == ["search"] for each in line[1:]]
    return [each.removeprefix("svc.") for each in searched if each.startswith("svc.")]


def _text(host: Any) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")
