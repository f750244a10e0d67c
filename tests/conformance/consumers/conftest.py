"""Published models for programs that know nothing of this project."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.conformance.consumers.cosign import Cosign
from tests.conformance.consumers.images import Image
from tests.support import docker_registry, model_servers
from tests.support.ports import free_port
from tests.support.signing_keys import KEY, new_key
from tests.support.trainer import publishing, web
from tests.support.trainer.publishing import Volume
from tests.support.trainer.web import Certificate

from conformance import modules


@pytest.fixture(autouse=True)
def _user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user who has configured nothing."""
    for name in os.environ:
        if name.startswith(("AWS_", "DOCKER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return web.certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return publishing.volume(tmp_path_factory.mktemp("volume"))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """The files with the public key of the operator, and with that of somebody else."""
    own, other = tmp_path / "signing.pub", tmp_path / "other.pub"
    own.write_bytes(KEY.public_key)
    other.write_bytes(new_key().public_key)
    return own, other


@pytest.fixture(scope="session", params=["docker-registry", "go-containerregistry"])
def host(
    request: pytest.FixtureRequest,
    certificate: Certificate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The address of a registry: one that keeps no list of referrers, and one that does."""
    folder, address = tmp_path_factory.mktemp("registry"), f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        if request.param == "docker-registry":
            options = {"certificate": certificate.authority, "key": certificate.key}
            stack.enter_context(docker_registry.running(folder, address, **options))
        else:
            stack.enter_context(model_servers.registry(folder, address, certificate))
        yield address


@pytest.fixture
def publish(volume: Volume, certificate: Certificate, host: str) -> Callable[[str], Image]:
    """Publish the adapter or the merged model as an image, with the statement of the operator."""
    return lambda what: Image.publish(volume, host, certificate, what)


@pytest.fixture
def crane(certificate: Certificate) -> Callable[..., bytes]:
    """Run crane, and return its output."""

    def run(*words: str) -> bytes:
        command = [str(modules.folder(modules.REGISTRY) / "crane"), *words]
        variables = os.environ | {"SSL_CERT_FILE": str(certificate.authority)}
        done = subprocess.run(command, env=variables, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run


@pytest.fixture
def cosign(certificate: Certificate) -> Cosign:
    return Cosign(program=os.environ["COSIGN"], authority=certificate.authority)
