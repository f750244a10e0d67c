"""Servers of others, built from their Go modules."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.api_server.controlplane import process, wait_until
from tests.support.trainer.web import Certificate

from conformance import modules


def listens(address: str) -> bool:
    """Report whether a server accepts connections."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def registry(folder: Path, address: str, certificate: Certificate) -> Iterator[None]:
    """Run the registry of go-containerregistry, which lists referrers, in the block."""
    program = modules.folder(modules.REGISTRY) / "registry"
    command: list[str | Path] = [program, address, certificate.authority, certificate.key]
    with process(command, folder / "registry.log"):
        wait_until("the registry listens", lambda: listens(address))
        yield
