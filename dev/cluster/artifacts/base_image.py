"""Images without a parent image of this project: a minimal Debian, and single static programs."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from pathlib import Path

from cluster import packages, paths
from cluster.artifacts import buildah, registry
from cluster.phases import phase
from cluster.settings import REGISTRY
from cluster.shell import logged

NAME = "finetune-base"
RELEASE = "bookworm"
"""Debian release, on every machine: the pinned packages are tested with its Python."""
INCLUDED = "python3,ca-certificates"


def reference() -> str:
    """Return the reference of the base image; it changes with the release or the package list."""
    digest = hashlib.sha256(f"{RELEASE} {INCLUDED} 1".encode()).hexdigest()[:8]
    return f"{REGISTRY}/{NAME}:{RELEASE}-{digest}"


def ensure() -> str:
    """Build the base image with debootstrap and push it, unless it exists; return its reference."""
    registry.start()
    paths.IMAGES.mkdir(parents=True, exist_ok=True)
    image = reference()
    with (paths.IMAGES / ".base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (registry.has(image) and buildah.exists(image)):
            with phase("build the base image with debootstrap"):
                _build(image)
    return image


def _build(image: str) -> None:
    log = paths.LOGS / "image-base.log"
    mirror = packages.host_mirror()
    if not buildah.exists(image):
        with tempfile.TemporaryDirectory(dir=paths.IMAGES, prefix=".base-") as folder:
            root = Path(folder) / "root"
            options = ["--variant=minbase", f"--include={INCLUDED}", RELEASE, str(root)]
            command = ["debootstrap", *options, *([mirror] if mirror else [])]
            logged(
                command,
                log,
                hint="check that the Debian mirror is reachable, then run the same command again",
            )
            for cached in ("var/cache/apt/archives", "var/lib/apt/lists"):
                shutil.rmtree(root / cached, ignore_errors=True)
                (root / cached / "partial").mkdir(parents=True)
            archive = Path(folder) / "root.tar"
            logged(["tar", "--numeric-owner", "-C", str(root), "-cf", str(archive), "."], log)
            (Path(folder) / "Dockerfile").write_text(
                'FROM scratch\nADD root.tar /\nCMD ["/bin/sh"]\n'
            )
            shutil.rmtree(root)
            buildah.build(image, Path(folder) / "Dockerfile", Path(folder), log, arguments={})
    buildah.push(image, log)


def ensure_single_program(name: str, program: Path) -> str:
    """Build and push an image whose entry point is this static program; return its reference."""
    digest = hashlib.sha256(program.read_bytes()).hexdigest()[:12]
    image = f"{REGISTRY}/{name}:{digest}"
    registry.start()
    if not registry.has(image):
        log = paths.LOGS / f"image-{name}.log"
        with (
            phase(f"build image {name}"),
            tempfile.TemporaryDirectory(dir=paths.IMAGES) as folder,
        ):
            shutil.copy2(program, Path(folder) / name)
            dockerfile = Path(folder) / "Dockerfile"
            dockerfile.write_text(
                f'FROM scratch\nCOPY {name} /{name}\nUSER 65535:65535\nENTRYPOINT ["/{name}"]\n'
            )
            buildah.build(image, dockerfile, Path(folder), log, arguments={})
            buildah.push(image, log)
    return image
