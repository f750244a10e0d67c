"""A release with its images: built with Podman, pushed to a registry with a private authority.

cosign signs the images with a key of the test. The base image is that of the local cluster, which
needs no registry.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conformance import engine
from tests.support.releases import ROOT, VERSION, Registry

from cluster.artifacts import base_image
from cluster.host import mounts
from conformance import modules


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published release: its folder, that of the keys, and the variables of its programs."""

    folder: Path
    keys: Path
    environment: dict[str, str]

    def digests(self) -> dict[str, str]:
        """Return the digest of each image, by reference."""
        found: dict[str, str] = json.loads((self.folder / "images.json").read_text())
        return found

    def cosign(self, *words: str) -> str:
        """Run cosign in the folder of the keys; return its output."""
        return subprocess.run(
            ["cosign", *words],
            cwd=self.keys,
            env=self.environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
        ).stdout


@contextmanager
def published(registry: Registry, folder: Path) -> Iterator[Release]:
    """Publish a release of the checkout; its images, several gigabytes, are deleted afterwards."""
    variables = engine.environment(folder, registry.authority)
    programs = modules.folder(modules.COSIGN)
    variables |= {"PATH": f"{programs}:{variables['PATH']}", "COSIGN_PASSWORD": ""}
    made = Release(folder=folder / "dist" / VERSION, keys=folder, environment=variables)
    made.cosign("generate-key-pair")
    options = f"--engine podman --base-image {base_image.ensure()} --output {folder / 'dist'}"
    options += f" --key {folder / 'cosign.key'} --no-transparency-log"
    options += " --source https://git.example.com/team --builder https://ci.example.com"
    command = ["make", "release", f"VERSION={VERSION}", f"REGISTRY={registry.location}"]
    command += [f"RELEASE={options}"]
    try:
        subprocess.run(command, cwd=ROOT, env=variables, check=True, timeout=2400)
        yield made
    finally:
        mounts.unmount_below(folder)
        shutil.rmtree(folder / engine.IMAGES)
        shutil.rmtree(registry.content)
