"""The images of a release: build, push, bill of materials, signatures.

The trainer image exists twice. The tag with ``-unsloth`` also contains Unsloth, so other licenses
apply to it; its label ``org.opencontainers.image.licenses`` and its license texts say so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from release.location import Location
from supplychain import signing

LICENSES_LABEL = "org.opencontainers.image.licenses"
LICENSES_DOCKERFILE = "dev/release/Dockerfile.licenses"
BASE = "docker.io/library/python:3.11-slim-bookworm"
UNKNOWN_DIGEST = "sha256:" + "0" * 64
Run = Callable[[list[str]], str]


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image of a release."""

    name: str
    dockerfile: str
    suffix: str = ""
    licenses: str = "Apache-2.0"
    arguments: Mapping[str, str] = field(default_factory=dict)

    def reference(self, location: Location) -> str:
        """Return the reference with the tag of a release."""
        return location.image(self.name, self.suffix)


IMAGES = (
    Image(name="finetune-operator", dockerfile="Dockerfile.operator"),
    Image(name="finetune-trainer", dockerfile="Dockerfile.trainer"),
    Image(
        name="finetune-trainer",
        dockerfile="Dockerfile.trainer",
        suffix="-unsloth",
        licenses="Apache-2.0 AND AGPL-3.0-only AND LGPL-3.0-or-later",
        arguments={"UNSLOTH": "yes"},
    ),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How images are built and signed. ``source`` and ``builder`` are URIs for the provenance.

    log: whether signatures are published in the transparency log.
    """

    engine: str
    base_image: str
    source: str
    builder: str
    key: str
    log: bool
    dry_run: bool


def publish(root: Path, location: Location, folder: Path, settings: Settings, run: Run) -> None:
    """Build, push, attest and sign all images; write their digests to images.json.

    Nothing is signed before all images are pushed.
    """
    revision = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    digests = {}
    for image in IMAGES:
        reference = image.reference(location)
        arguments = build_arguments(image, location, revision, settings)
        for command in build(image, reference, arguments, settings.engine):
            run(command)
        file = folder / f"{image.name}{image.suffix}.digest"
        run(push(reference, settings.engine, file))
        digests[reference] = UNKNOWN_DIGEST if settings.dry_run else _digest(reference, file)
        printed = run(read_sbom(image, reference, settings.engine))
        if not settings.dry_run:
            _sbom(image, folder).write_text(printed, encoding="utf-8")
    for image in IMAGES:
        by_digest = f"{location.registry}/{image.name}@{digests[image.reference(location)]}"
        arguments = build_arguments(image, location, revision, settings)
        run(sign(image, by_digest, _sbom(image, folder), arguments, settings))
        if not settings.dry_run:
            made = _provenance_folder(image, folder)
            (made / "provenance.json").rename(made.with_suffix(".provenance.json"))
            made.rmdir()
    if not settings.dry_run:
        (folder / "images.json").write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def build_arguments(
    image: Image, location: Location, revision: str, settings: Settings
) -> dict[str, str]:
    """Return the build arguments of an image. revision: commit of the checkout."""
    base = {"BASE_IMAGE": settings.base_image or BASE}
    return base | {"VERSION": location.version, "REVISION": revision} | dict(image.arguments)


def build(
    image: Image, reference: str, arguments: Mapping[str, str], engine: str
) -> list[list[str]]:
    """Return the commands that build an image, and add the license texts."""
    without_texts = f"localhost/{image.name}{image.suffix}:build"
    words = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    file = [f"--file={image.dockerfile}"]
    licenses = [f"--build-arg=IMAGE={without_texts}", f"--label={LICENSES_LABEL}={image.licenses}"]
    return [
        [engine, "build", *file, *words, f"--tag={without_texts}", "."],
        [engine, "build", f"--file={LICENSES_DOCKERFILE}", *licenses, f"--tag={reference}", "."],
    ]


def push(reference: str, engine: str, digest: Path) -> list[str]:
    """Return the command that pushes an image. digest: Podman writes the digest to this file."""
    return [engine, "push", *([f"--digestfile={digest}"] if engine == "podman" else []), reference]


def read_sbom(image: Image, reference: str, engine: str) -> list[str]:
    """Return the command that prints the bill of materials of an image."""
    path = f"/usr/share/sbom/{image.name}.spdx.json"
    return [engine, "run", "--rm", "--entrypoint=cat", reference, path]


def sign(
    image: Image, reference: str, sbom: Path, arguments: Mapping[str, str], settings: Settings
) -> list[str]:
    """Return the command that signs and attests an image. reference: with its digest."""
    command = [sys.executable, "dev/supplychain", reference, f"--dockerfile={image.dockerfile}"]
    command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    command += [f"--sbom={sbom}", f"--source={settings.source}", f"--builder={settings.builder}"]
    command += [f"--output={_provenance_folder(image, sbom.parent)}"]
    command += [f"--key={settings.key}"] if settings.key else []
    return [*command, *([] if settings.log else ["--no-transparency-log"])]


def _sbom(image: Image, folder: Path) -> Path:
    return folder / f"{image.name}{image.suffix}.spdx.json"


def _provenance_folder(image: Image, folder: Path) -> Path:
    return folder / f"{image.name}{image.suffix}"


def cosign(command: str, settings: Settings, *words: str) -> list[str]:
    """Return a command of cosign that signs with the key of the release."""
    return ["cosign", command, *signing.options(settings.key, log=settings.log), *words]


def _digest(reference: str, file: Path) -> str:
    """Return the digest that the registry gave a pushed image.

    ``podman inspect`` shows that of the local image, whose layers are not compressed.
    """
    if file.exists():
        digest = file.read_text(encoding="utf-8").strip()
        file.unlink()
        return digest
    repository = reference.rpartition(":")[0]
    output = _output(["docker", "inspect", "--format={{json .RepoDigests}}", reference])
    references = [str(repo_digest) for repo_digest in json.loads(output)]
    (digest,) = {
        repo_digest.partition("@")[2]
        for repo_digest in references
        if repo_digest.startswith(f"{repository}@")
    }
    return digest


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
