"""buildah with its own storage, so that images of the user are not touched.

RUN steps use the network of the host. Its certificate bundle and the index settings of pip and uv
are mounted read-only, so that an image can be built wherever the host can install packages, and no
layer contains them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster import paths
from cluster.settings import REGISTRY, REGISTRY_ADDRESS
from cluster.shell import capture, logged, run

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# Build arguments of the Dockerfiles for the package indexes.
INDEX_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")
SETTINGS = {
    "/etc/pip.conf": ("~/.config/pip/pip.conf", "~/.pip/pip.conf", "/etc/pip.conf"),
    "/etc/uv/uv.toml": ("~/.config/uv/uv.toml", "/etc/uv/uv.toml"),
}


def command(*arguments: str) -> list[str]:
    """Return a buildah command on the storage of this project."""
    places = ["--root", str(paths.BUILDAH_ROOT), "--runroot", str(paths.BUILDAH_RUN)]
    return ["buildah", *places, "--storage-driver", "overlay", *arguments]


def host_volumes() -> list[str]:
    """Return options that mount certificates and index settings of the host into RUN steps."""
    sources = {CERTIFICATES: CERTIFICATES}
    for target, candidates in SETTINGS.items():
        present = [name for name in map(os.path.expanduser, candidates) if os.path.isfile(name)]
        sources.update(dict.fromkeys(present[:1], target))
    return [
        word for source, target in sources.items() for word in ("--volume", f"{source}:{target}:ro")
    ]


def exists(image: str) -> bool:
    """Report whether the image is in the storage."""
    return run(command("inspect", "--type", "image", image), check=False).returncode == 0


def build(
    image: str,
    dockerfile: Path,
    context: Path,
    log: Path,
    *,
    arguments: Mapping[str, str],
    labels: Mapping[str, str] | None = None,
) -> None:
    """Build and tag an image; unchanged layers come from the storage."""
    options = ["--isolation", "chroot", "--network", "host", "--layers", "--pull-never"]
    options += ["--format", "oci", "--tag", image, "--file", str(dockerfile), *host_volumes()]
    indexes = {name: os.environ[name] for name in INDEX_VARIABLES if os.environ.get(name)}
    for name, value in {**indexes, **arguments}.items():
        options += ["--build-arg", f"{name}={value}"]
    for name, value in (labels or {}).items():
        options += ["--label", f"{name}={value}"]
    logged(
        command("bud", *options, str(context)),
        log,
        hint="check that the package indexes are reachable, then run `make images`, which resumes",
    )


def push(image: str, log: Path) -> None:
    """Push to the local registry; existing layers are skipped."""
    target = image.replace(REGISTRY, REGISTRY_ADDRESS, 1)
    # The fastest compression: the layers stay on this machine.
    flags = ["--tls-verify=false", "--compression-format", "zstd", "--compression-level", "1"]
    logged(command("push", *flags, image, f"docker://{target}"), log)


def tags() -> list[str]:
    """Return the names of all images in the storage."""
    output = capture(command("images", "--format", "{{.Name}}:{{.Tag}}"))
    return [line for line in output.splitlines() if "<none>" not in line]


def remove(images: Sequence[str]) -> None:
    """Remove images, and layers that no other image uses."""
    if images:
        run(command("rmi", "--force", *images), check=False)
    run(command("rmi", "--prune"), check=False)
