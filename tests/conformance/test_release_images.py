"""A release with its images: built, pushed, signed and verified.

Podman builds the images and pushes them to a registry with a private authority. cosign signs them
with a key of the test. The base image is that of the local cluster, which needs no registry.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conformance import engine
from tests.integration.test_release import (
    ROOT,
    VERSION,
    Registry,
    registry,  # noqa: F401  (pytest finds fixtures by name)
)

from cluster.artifacts import base_image
from cluster.host import mounts
from conformance import modules

IMAGES = ("finetune-operator", "finetune-trainer", "finetune-trainer-unsloth")
# Of signatures that are not in the transparency log.
VERIFIED = ("--key=cosign.pub", "--insecure-ignore-tlog=true")

pytestmark = pytest.mark.timeout(3600)


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


@pytest.fixture(scope="module")
def release(
    registry: Registry,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Release]:
    """Publish a release of the checkout; its images, several gigabytes, are deleted afterwards."""
    folder = tmp_path_factory.mktemp("release")
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


def test_images_chart_and_checksums_are_signed(
    release: Release,
    registry: Registry,  # noqa: F811
) -> None:
    digests = release.digests()
    assert len(digests) == len(IMAGES)
    for reference, digest in digests.items():
        # cosign also signs a digest that the registry does not have.
        assert registry.digest(reference) == digest
        image = f"{reference.rpartition(':')[0]}@{digest}"
        release.cosign("verify", *VERIFIED, image)
        for kind in ("spdxjson", "slsaprovenance1"):
            release.cosign("verify-attestation", *VERIFIED, f"--type={kind}", image)
    release.cosign("verify", *VERIFIED, f"{registry.location}/charts/finetune-operator:{VERSION}")
    sums = release.folder / "SHA256SUMS"
    release.cosign("verify-blob", *VERIFIED, f"--bundle={sums}.sigstore.json", str(sums))
    subprocess.run(["sha256sum", "--check", "--quiet", sums], cwd=release.folder, check=True)


def test_bill_of_materials_of_each_image_lists_its_packages(release: Release) -> None:
    for name in IMAGES:
        bill = json.loads((release.folder / f"{name}.spdx.json").read_text())
        packages = {each["name"] for each in bill["packages"]}
        assert ("torch" in packages) == ("trainer" in name), name
        assert ("unsloth" in packages) == name.endswith("-unsloth"), name
