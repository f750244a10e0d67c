"""The images that nothing of ours lies below: a minimal Debian, and single static programs."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from pathlib import Path

from cluster import buildah, packages, paths, registry
from cluster.phases import phase
from cluster.settings import REGISTRY
from cluster.shell import logged

NAME = "finetune-base"
RELEASE = "bookworm"
"""Of Debian, on whatever machine: our pins are tested with its Python."""
INCLUDED = "python3,ca-certificates"


def reference() -> str:
    """The base image; a new one only when the release or the package list changes."""
    digest = hashlib.sha256(f"{RELEASE} {INCLUDED} 1".encode()).hexdigest()[:8]
    return f"{REGISTRY}/{NAME}:{RELEASE}-{digest}"


def ensure() -> str:
    """Build by debootstrap and push, unless the registry and buildah have it."""
    registry.start()
    paths.IMAGES.mkdir(parents=True, exist_ok=True)
    image = reference()
    with (paths.IMAGES / ".base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (registry.has(image) and buildah.exists(image)):
            with phase("build the base image (debootstrap)"):
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
            logged(command, log, hint="Debian's mirror must be reachable; try again")
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
    """An image of one static program that is its entry point."""
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
