"""The container images: what they are made of, and building them only when that changed.

An image's tag is a hash of its inputs (Dockerfile, sources, version, the tag of the image below
it). The build's context holds exactly those inputs, so nothing undeclared can get in.
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

from cluster import base_image, buildah, containers, paths, registry
from cluster.errors import ClusterError
from cluster.phases import phase
from cluster.settings import REGISTRY

KEPT_BUILDS = 3
VERSION_LABEL = "org.opencontainers.image.version"
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image:
    """One image: its Dockerfile and inputs, relative to the repository, and the image below.

    ``empty`` names folders that the Dockerfile copies and that are empty for this image.
    ``versioned`` ones bear the repository's version as a label; never the commit, which would
    make every image anew.
    """

    name: str
    dockerfile: str
    inputs: tuple[str, ...]
    below: str
    empty: tuple[str, ...] = ()
    versioned: bool = False

    def labels(self) -> dict[str, str]:
        """Labels beside those of the Dockerfile.

        Not by way of its argument VERSION: buildah takes a LABEL line from its storage whatever
        the argument's value was.
        """
        return {VERSION_LABEL: _version()} if self.versioned else {}

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
    inputs=(
        "constraints/operator.txt",
        "crds/finetune_api",
        "operator/finetune_operator",
        "trainer/finetune_verify",
    ),
    below="base",
    versioned=True,
)
TRAINER = Image(
    name="finetune-trainer",
    dockerfile="Dockerfile.trainer",
    inputs=(
        "constraints/trainer.txt",
        "constraints/unsloth.txt",
        "crds/finetune_api",
        "trainer/finetune_trainer",
    ),
    below="base",
    versioned=True,
)
# The trainer image without our code: what vLLM lies on, so that a change of our code does not
# build it anew. Its layers are the trainer image's own.
PACKAGES = Image(
    name="finetune-trainer-packages",
    dockerfile="Dockerfile.trainer",
    inputs=("constraints/trainer.txt", "constraints/unsloth.txt"),
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
    """Build and push what is missing; returns name to reference."""
    base_image.ensure()
    references = {}
    for image in images:
        target = reference(image)
        if not registry.has(target):
            target = _build(image)
            with phase(f"push image {image.name}"):
                buildah.push(target, _log(image))
            _forget_superseded(image)
        references[image.name] = target
    return references


def ensure_local(image: Image) -> str:
    """Build what is missing in buildah's storage, for programs that run from it here."""
    base_image.ensure()
    target = reference(image)
    return target if buildah.exists(target) else _build(image)


def _log(image: Image) -> Path:
    return paths.LOGS / f"image-{image.name}.log"


def _build(image: Image) -> str:
    """Build from a copy of the inputs; returns the reference of what was built."""
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
    """Copy until the inputs did not change meanwhile: the tag must tell the truth."""
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


def _forget_superseded(image: Image) -> None:
    """Keep the newest builds; older ones may still be named by jobs of a running cluster."""
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
    """Remove what containerd unpacked of images that the registry no longer has."""
    present = containers.images()
    tagged = {name: digest for name, digest in present.items() if not name.startswith("sha256:")}
    needed = {digest for name, digest in tagged.items() if "@" not in name and registry.knows(name)}
    containers.remove_images([name for name, digest in present.items() if digest not in needed])
