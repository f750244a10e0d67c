"""Servers of others, built from their Go modules."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.api_server.controlplane import process, wait_until
from tests.support.trainer.web import Certificate

from conformance import modules

ACCESS_KEY, SECRET_KEY = "PUBLISHER", "a-secret-of-the-test"


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


@contextmanager
def versitygw(folder: Path, address: str, certificate: Certificate) -> Iterator[Path]:
    """Run an S3 service in the block; yield the folder of its bucket ``models``."""
    program = modules.folder(modules.VERSITYGW) / "versitygw"
    buckets, metadata = folder / "buckets", folder / "metadata"
    buckets.mkdir()
    metadata.mkdir()
    command: list[str | Path] = [program, "--access", ACCESS_KEY, "--secret", SECRET_KEY]
    command += ["--port", address, "--cert", certificate.authority, "--key", certificate.key]
    # An extended attribute of ext4 is too small for the list of 1,193 parts.
    command += ["--region", "us-east-1", "--iam-dir", "", "posix", "--sidecar", metadata, buckets]
    with process(command, folder / "versitygw.log"):
        wait_until("versitygw listens", lambda: listens(address))
        yield buckets / "models"
