"""A published model for those who only have its reference: they verify it, and pull its files."""

import base64
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e import registry
from tests.e2e.registry import PASSWORD, USER, Registry, openssl
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.tuning import Tuning, condition

from cluster import paths
from cluster.components.signing_key import FILE, NEW_KEY
from cluster.settings import NODE_ADDRESS

SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Published:
    """An image of a model. ``reference`` and ``digest`` are those in the status of the job."""

    registry: Registry
    reference: str
    digest: str

    def verify(self, key: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Run ``ftj verify`` with the password of the registry."""
        docker = self.registry.folder / "docker"
        docker.mkdir(exist_ok=True)
        (docker / "config.json").write_text(self.registry.docker_config, encoding="utf-8")
        certificate = ("--ca", str(self.registry.certificate))
        return verify(
            f"oci://{self.reference}", key, *certificate, *options, DOCKER_CONFIG=str(docker)
        )

    @contextmanager
    def pulled(self, folder: Path) -> Iterator[Path]:
        """Pull the image with containerd, and yield the folder with the files of the model."""
        access = ("--tlscacert", str(self.registry.certificate), "--user", f"{USER}:{PASSWORD}")
        folder.mkdir()
        _images("pull", *access, self.reference)
        try:
            _images("mount", self.reference, str(folder))
            try:
                yield folder / "models"
            finally:
                _images("unmount", "--rm", str(folder))
        finally:
            _images("remove", "--sync", self.reference)


@contextmanager
def publish(tuning: Tuning, folder: Path) -> Iterator[Published]:
    """Publish the merged model of a job, and yield it. The registry runs during the block."""
    with registry.running(folder) as found:
        tuning.cluster.kubectl.apply(*found.objects(tuning.namespace))
        tuning.change(publish=[{**target(tuning, found, "merged"), "tags": ["latest"]}])
        yield models(tuning, found)["merged"]


def verify(
    reference: str, key: Path, *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``ftj verify`` with more options and environment variables."""
    command = [sys.executable, "-m", "finetune_cli", "verify", reference, "--key", str(key)]
    path = os.pathsep.join(sys.path)
    return subprocess.run(
        [*command, *options],
        env=os.environ | {"PYTHONPATH": path} | variables,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def target(tuning: Tuning, place: Registry, what: str) -> Object:
    """Return a target of a job, which has the name of what it publishes."""
    return {"name": what, "what": what, "oci": place.target(f"e2e/{tuning.name}")}


def models(tuning: Tuning, place: Registry, *, seconds: float = SECONDS) -> dict[str, Published]:
    """Wait until a job has published to a registry; return its models by the name of the target.

    seconds: as in ``Tuning.wait``.
    """

    def published(status: Object) -> list[Object] | None:
        entries: list[Object] = status.get("publish", [])
        # Right after an edit of spec.publish, the status still describes the earlier targets.
        there = [str(entry.get("reference")).startswith(f"{NODE_ADDRESS}/") for entry in entries]
        now = condition(status, "Published")
        done = now is not None and now["status"] == "True" and there and all(there)
        return entries if done else None

    return {
        entry["name"]: Published(
            registry=place, reference=entry["reference"], digest=entry["digest"]
        )
        for entry in tuning.wait("its models are in the registry", published, seconds=seconds)
    }


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 (hex) of each file in a folder by its path."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                name = path.relative_to(folder).as_posix()
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def public_key(secret: Object, folder: Path) -> Path:
    """Return the file with the public key of the private key in a Secret."""
    private, public = folder / "signing.key", folder / "signing.pub"
    private.write_bytes(base64.b64decode(secret["data"][FILE]))
    openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
    return public


def another_key(folder: Path) -> Path:
    """Return the file with the public key of a new key."""
    private, public = folder / "another.key", folder / "another.pub"
    openssl(*NEW_KEY[1:], "-out", str(private))
    openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
    return public


def _images(*arguments: str) -> None:
    """Run a command of ctr in a namespace of its own, which no kubelet sees."""
    place = ("--address", str(paths.CONTAINERD_SOCKET), "--namespace", "e2e-publishing")
    done = subprocess.run(
        ["ctr", *place, "images", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"ctr images {arguments[0]}: {done.stderr}"
