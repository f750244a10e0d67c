"""docker-registry of Debian with TLS: the reference implementation of the OCI protocol."""

import json
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "docker-registry"
START_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class DockerRegistry:
    """A running registry. ``host`` has a port; ``storage`` contains its blobs."""

    host: str
    storage: Path

    def blob(self, digest: str) -> Path:
        """Return the file of a blob."""
        value = digest.removeprefix("sha256:")
        blobs = self.storage / "docker" / "registry" / "v2" / "blobs" / "sha256"
        return blobs / value[:2] / value / "data"


@contextmanager
def running(
    folder: Path,
    host: str,
    *,
    certificate: Path,
    key: Path,
    users: Path | None = None,
    storage: Path | None = None,
) -> Iterator[DockerRegistry]:
    """Run a registry in the block.

    folder: of its configuration. host: address and port. users: file with the hashes of passwords;
    None admits everybody. storage: folder of its blobs, below ``folder`` by default.
    """
    found = DockerRegistry(host=host, storage=storage or folder / "storage")
    access = {} if users is None else {"htpasswd": {"realm": "registry", "path": str(users)}}
    document = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(found.storage)}},
        "auth": access,
        "http": {
            "addr": host,
            "secret": uuid.uuid4().hex,
            "tls": {"certificate": str(certificate), "key": str(key)},
        },
    }
    config, log = folder / "registry.json", folder / "registry.log"
    config.write_text(json.dumps(document), encoding="utf-8")
    # A test process that is killed must not leave the registry behind.
    command = ["setpriv", "--pdeathsig", "KILL", "--", PROGRAM, "serve", str(config)]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            _wait(found, process, log)
            yield found
        finally:
            process.terminate()


def _wait(found: DockerRegistry, process: subprocess.Popen[bytes], log: Path) -> None:
    name, _, port = found.host.rpartition(":")
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((name, int(port)), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(encoding="utf-8", errors="replace")
                raise AssertionError(f"docker-registry does not start:\n{text}") from None
            time.sleep(0.05)
