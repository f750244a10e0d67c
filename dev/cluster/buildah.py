"""buildah with a storage of its own, so that nothing of the user's is touched.

RUN steps use the host's network and trust: its certificate bundle and the files that tell pip
and uv where packages come from are mounted read-only, so that an image builds wherever the host
itself can install packages, and nothing of it stays in a layer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster import paths
from cluster.settings import REGISTRY, REGISTRY_ADDRESS
from cluster.shell import capture, logged, run

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# The build arguments that our Dockerfiles declare for the package indexes.
INDEX_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")
SETTINGS = {
    "/etc/pip.conf": ("~/.config/pip/pip.conf", "~/.pip/pip.conf", "/etc/pip.conf"),
    "/etc/uv/uv.toml": ("~/.config/uv/uv.toml", "/etc/uv/uv.toml"),
}


def command(*arguments: str) -> list[str]:
    """Return a buildah command on our storage."""
    places = ["--root", str(paths.BUILDAH_ROOT), "--runroot", str(paths.BUILDAH_RUN)]
    return ["buildah", *places, "--storage-driver", "overlay", *arguments]


def host_volumes() -> list[str]:
    """Options that mount the host's trust and index settings into RUN steps."""
    sources = {CERTIFICATES: CERTIFICATES}
    for target, candidates in SETTINGS.items():
        present = [name for name in map(os.path.expanduser, candidates) if os.path.isfile(name)]
        sources.update(dict.fromkeys(present[:1], target))
    return [
        word for source, target in sources.items() for word in ("--volume", f"{source}:{target}:ro")
    ]


def exists(image: str) -> bool:
    """Whether the image is in our storage."""
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
    """Build and tag; layers that did not change come from the storage."""
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
        hint="the package indexes must be reachable; `make images` goes on where it stopped",
    )


def push(image: str, log: Path) -> None:
    """Push to the local registry; layers that it has are skipped."""
    target = image.replace(REGISTRY, REGISTRY_ADDRESS, 1)
    # The fastest gzip: the layers travel to the next folder, not over a network.
    flags = ["--tls-verify=false", "--compression-format", "gzip", "--compression-level", "1"]
    logged(command("push", *flags, image, f"docker://{target}"), log)


def tags() -> list[str]:
    """Names of all images in our storage."""
    output = capture(command("images", "--format", "{{.Name}}:{{.Tag}}"))
    return [line for line in output.splitlines() if "<none>" not in line]


def remove(images: Sequence[str]) -> None:
    """Remove images and the layers that nothing else uses."""
    if images:
        run(command("rmi", "--force", *images), check=False)
    run(command("rmi", "--prune"), check=False)
