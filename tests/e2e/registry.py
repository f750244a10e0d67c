"""docker-registry on the node, with TLS and a password.

The publish pod of a job reaches it by the address of the node, which dev/cluster/values.yaml allows
as a destination.
"""

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import docker_registry
from tests.support.docker_registry import DockerRegistry
from tests.support.local_cluster.kubectl import Object

from cluster.settings import NODE_ADDRESS

PORT = 443
"""The only port outside of the cluster that the default of the chart value egress.ports opens."""
USER, PASSWORD = "robot", "correct-horse"
PASSWORD_HASH = "$2b$04$CAvCLpoB7CQV7RbafwyACecm8ssGjlM9a8HpKuIHlzT.fmeCE0wTS"


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A running registry. ``folder`` is for files of its clients."""

    server: DockerRegistry
    folder: Path
    certificate: Path
    """The certificate of the registry, which is its own authority."""

    @property
    def docker_config(self) -> str:
        """The Docker configuration with the password of the registry."""
        return json.dumps({"auths": {NODE_ADDRESS: {"username": USER, "password": PASSWORD}}})

    def objects(self, namespace: str) -> list[Object]:
        """Return the Secret and the ConfigMap with which a job reaches the registry."""
        metadata = {"name": "registry", "namespace": namespace}
        return [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/dockerconfigjson",
                "metadata": metadata,
                "stringData": {".dockerconfigjson": self.docker_config},
            },
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata,
                "data": {"ca.crt": self.certificate.read_text(encoding="utf-8")},
            },
        ]

    def target(self, repository: str) -> Object:
        """Return ``oci`` of a target in spec.publish."""
        return {
            "repository": f"{NODE_ADDRESS}/{repository}",
            "secretRef": {"name": "registry"},
            "caConfigMapRef": {"name": "registry", "key": "ca.crt"},
        }

    def layers(self, image: str) -> dict[str, Path]:
        """Return where the registry stores the layer of each file of an image. image: digest."""
        manifest = json.loads(self.server.blob(image).read_bytes())
        title = "org.opencontainers.image.title"
        return {
            layer["annotations"][title]: self.server.blob(layer["digest"])
            for layer in manifest["layers"]
        }

    def text(self, image: str, name: str) -> str:
        """Return a text file of an image. image: digest."""
        with tarfile.open(self.layers(image)[name]) as archive:
            member = archive.extractfile(f"models/{name}")
            assert member is not None, name
            return member.read().decode()


@contextmanager
def running(folder: Path) -> Iterator[Registry]:
    """Run a registry during the block."""
    certificate, key = node_certificate(folder)
    users = folder / "htpasswd"
    users.write_text(f"{USER}:{PASSWORD_HASH}\n", encoding="utf-8")
    with docker_registry.running(
        folder, f"{NODE_ADDRESS}:{PORT}", certificate=certificate, key=key, users=users
    ) as server:
        yield Registry(server=server, folder=folder, certificate=certificate)


def node_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for the address of the node; return it and its key."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "2", "-subj", "/CN=node", "-addext", f"subjectAltName=IP:{NODE_ADDRESS}",
        "-keyout", str(key), "-out", str(certificate),
    )  # fmt: skip
    return certificate, key


@contextmanager
def flipped(path: Path) -> Iterator[None]:
    """Flip a bit in the middle of a file during the block."""
    _flip(path)
    yield
    _flip(path)


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def openssl(*arguments: str) -> None:
    """Run openssl."""
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
