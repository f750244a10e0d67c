"""Publishing to docker-registry of Debian, which the local cluster uses as well.

It is the reference implementation of the protocol. It checks digests and names itself, and keeps
its blobs in files, which the tests change.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support import docker_registry
from tests.support.docker_registry import PROGRAM, DockerRegistry
from tests.support.ports import free_port
from tests.support.trainer import publishing
from tests.support.trainer.publishing import BUILD, Process, Published, Volume, run
from tests.support.trainer.web import Certificate
from tests.trainer.publishing.conftest import USER, docker_config

from finetune_trainer.checkpointing import manifest

pytestmark = pytest.mark.skipif(
    shutil.which(PROGRAM) is None, reason="the package docker-registry is missing"
)


@dataclass(frozen=True, kw_only=True)
class Server(DockerRegistry):
    """A running registry, and its certificate."""

    certificate: Certificate

    def get(self, path: str) -> bytes:
        return httpx.get(
            f"https://{self.host}/v2/team/tiny/{path}",
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
            verify=publishing.context(self.certificate),
        ).content


@contextmanager
def running(
    folder: Path, certificate: Certificate, storage: Path | None = None
) -> Iterator[Server]:
    with docker_registry.running(
        folder,
        f"127.0.0.1:{free_port()}",
        certificate=certificate.authority,
        key=certificate.key,
        storage=storage,
    ) as found:
        yield Server(host=found.host, storage=found.storage, certificate=certificate)


@pytest.fixture
def real(tmp_path: Path, certificate: Certificate) -> Iterator[Server]:
    with running(tmp_path, certificate) as server:
        yield server


def target(found: Volume, server: Server, **fields: Any) -> dict[str, Any]:
    oci = {"repository": f"{server.host}/team/tiny", "ca": str(server.certificate.authority)}
    return found.target("merged", oci=oci, **fields)


def publish(found: Volume, server: Server, **fields: Any) -> Published:
    return run(found, target(found, server, **fields), environment=docker_config(server.host, USER))


def test_image_is_complete_and_layers_are_files(volume: Volume, real: Server) -> None:
    done = publish(volume, real, tags=("latest",))
    assert done.error is None, done.failure
    document = real.get("manifests/latest")
    assert f"sha256:{hashlib.sha256(document).hexdigest()}" == done.only.digest
    assert real.get("manifests/tiny-1-merged") == document
    for layer in json.loads(document)["layers"]:
        name = layer["annotations"]["org.opencontainers.image.title"]
        path = volume.layout.merged(BUILD) / name
        if name != "manifest.json" and "/" not in name:
            data = real.get(f"blobs/{layer['digest']}")
            assert data[1024 : 1024 + path.stat().st_size] == path.read_bytes()
    second = publish(volume, real, tags=("latest",))
    assert (second.error, second.only.sent_bytes) == (None, 0)


def test_flipped_byte_in_the_storage_is_found(volume: Volume, real: Server) -> None:
    assert publish(volume, real).error is None
    layers = json.loads(real.get("manifests/tiny-1-merged"))["layers"]
    largest = max(layers, key=lambda layer: layer["size"])["digest"]
    data = bytearray(real.blob(largest).read_bytes())
    data[200_000] ^= 1
    real.blob(largest).write_bytes(data)
    reason, message = publish(volume, real, tags=("latest",)).failure
    assert reason == "TargetRejected"
    assert largest in message


@pytest.mark.skipif(shutil.which("buildah") is None, reason="the package buildah is missing")
def test_image_is_unpacked_by_another_client(volume: Volume, real: Server, tmp_path: Path) -> None:
    assert publish(volume, real).error is None

    def buildah(*arguments: str) -> str:
        places = ["--root", str(tmp_path / "images"), "--runroot", str(tmp_path / "run")]
        command = ["buildah", *places, "--storage-driver", "vfs", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    image = f"{real.host}/team/tiny:tiny-1-merged"
    buildah("from", "--tls-verify=false", "--name", "model", image)
    folder = Path(buildah("mount", "model")) / "models"
    try:
        proved = manifest.verify(folder, kind="merged", key=None)
    finally:
        buildah("umount", "model")
    assert proved.facts["publishedFrom"] == volume.merged


def test_full_disk_is_named(tmp_path: Path, volume: Volume, certificate: Certificate) -> None:
    storage = tmp_path / "small"
    storage.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", storage], check=True)
    try:
        with running(tmp_path, certificate, storage) as server:
            reason, message = publish(volume, server).failure
    finally:
        subprocess.run(["umount", "-l", storage], check=True)
    assert reason == "TargetRejected"
    assert "has no space left" in message


def test_killed_process_is_continued(
    volume: Volume, real: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    large = publishing.volume(tmp_path_factory.mktemp("large"), shard=48 << 20)
    first = Process(large, target(large, real), environment={}, part=1 << 20)
    blobs = real.storage / "docker/registry/v2/blobs"
    until = time.monotonic() + 60
    # The first large file is complete when its blob has been moved into place.
    while not any(path.stat().st_size > 40 << 20 for path in blobs.rglob("data")):
        assert time.monotonic() < until
        time.sleep(0.01)
    first.kill()
    if first.wait() == 0:
        pytest.fail("the process ended before it was killed")
    before = {path: path.stat().st_mtime_ns for path in blobs.rglob("data")}
    assert b"MANIFEST_UNKNOWN" in real.get("manifests/tiny-1-merged")
    second = run(large, target(large, real))
    assert second.error is None, second.failure
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert second.only.sent_bytes is not None
    assert second.only.sent_bytes < 16 << 20


@pytest.mark.parametrize(
    "tenth",
    [
        pytest.param(tenth, marks=() if tenth == 6 else pytest.mark.exhaustive)
        for tenth in range(1, 11)
    ],
)
def test_killed_at_a_tenth_leaves_one_complete_image(
    tenth: int, real: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The tenth of all bytes that the registry has stored, also in blobs that are not complete."""
    large = publishing.volume(tmp_path_factory.mktemp("large"), shard=16 << 20)
    folder = large.layout.merged(BUILD)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    first = Process(large, target(large, real), environment={}, part=1 << 20)
    until = time.monotonic() + 60
    while _stored(real.storage) < total * tenth // 10 and first.pid is not None:
        assert time.monotonic() < until
        time.sleep(0.001)
    first.kill()
    killed, before = first.wait() == -9, real.get("manifests/tiny-1-merged")
    second = run(large, target(large, real, tags=("latest",)))
    assert second.error is None, second.failure
    digests = {real.get(f"manifests/{name}") for name in ("latest", "tiny-1-merged")}
    assert {f"sha256:{hashlib.sha256(each).hexdigest()}" for each in digests} == {
        second.only.digest
    }
    # The last bytes may have arrived before the signal.
    assert tenth > 8 or killed
    assert b"MANIFEST_UNKNOWN" in before or before in digests


def _stored(folder: Path) -> int:
    """Return the size of all blobs. The registry removes folders meanwhile; ``walk`` skips them."""
    sizes = 0
    for place, _, names in os.walk(folder):
        if "data" in names:
            with contextlib.suppress(FileNotFoundError):
                sizes += Path(place, "data").stat().st_size
    return sizes
