"""The environment in which Podman builds, pushes and runs images on any test machine."""

import os
from pathlib import Path

from cluster import paths
from cluster.artifacts import buildah

# Podman raises these limits for containers, which root may not do in some virtual machines.
LIMITS = '["nofile=1024:1024", "nproc=1024:1024"]'

IMAGES = "images"
"""Folder of the images that Podman builds."""


def environment(folder: Path, authority: Path) -> dict[str, str]:
    """Return variables for Podman with its own storage, and for all clients of a registry.

    The layers of the local cluster's images are read, so that only changed ones are built.
    authority: certificate of the registry.
    """
    mounts = ", ".join(f'"{each}"' for each in buildah.host_volumes() if each != "--volume")
    (folder / "containers.conf").write_text(
        f'[containers]\nnetns = "host"\ndefault_ulimits = {LIMITS}\nvolumes = [{mounts}]\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
    )
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder / IMAGES}"\n'
        f'runroot = "{folder / "run"}"\n'
        f'[storage.options]\nadditionalimagestores = ["{paths.BUILDAH_ROOT}"]\n'
    )
    return {
        **os.environ,
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "SSL_CERT_FILE": str(authority),
    }
