"""Writes the bundle: packages from the pinned constraints, installed for another Python."""

from __future__ import annotations

import lzma
import shutil
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from checks import environment
from cluster import paths
from cluster.errors import ClusterError
from cluster.phases import phase, say
from cluster.shell import INDEX_HINT, logged
from gpubundle import contents

NAME = "gpu-bundle"
FOLDER = paths.REPO / "build"
LOG = paths.CACHE / "gpu-bundle.log"
LARGEST = 60 * 2**20
CONSTRAINTS = paths.REPO / "constraints" / "trainer.txt"


class TooLarge(ClusterError):
    """The archive is larger than the machines accept that it is for."""


def make(*, python: str, cuda: str) -> int:
    """Write the archive for a version of Python and of CUDA; return the exit status."""
    environment.ensure()
    installed = Path(sysconfig.get_path("purelib", vars={"base": str(environment.FOLDER)}))
    with tempfile.TemporaryDirectory() as name:
        site, folder = Path(name) / "site", Path(name) / NAME
        with phase(f"install the packages for Python {python}"):
            names = _install_all(site, installed, python=python)
        contents.write(paths.REPO, site, folder, names=names, cuda=cuda)
        (folder / contents.PACKAGES / contents.BUILT_FOR).write_text(f"{python}\n")
        archive = FOLDER / f"{NAME}.tar.xz"
        with phase(f"write {archive.relative_to(paths.REPO)}"):
            pack(folder, archive)
    say(f"{archive.relative_to(paths.REPO)}: {archive.stat().st_size / 2**20:.1f} MiB")
    return 0


def pack(folder: Path, archive: Path, *, largest: int = LARGEST, preset: int = 3) -> None:
    """Compress a folder. Raise TooLarge, and leave no archive, if it is larger than ``largest``."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f"{archive.name}.partial")
    with (
        lzma.open(partial, "wb", preset=preset) as file,
        tarfile.open(mode="w", fileobj=file) as tar,
    ):
        tar.add(folder, arcname=folder.name, filter=_anonymous)
    size = partial.stat().st_size
    if size > largest:
        partial.unlink()
        raise TooLarge(
            f"the archive has {size / 2**20:.1f} MiB, and the limit is {largest / 2**20:.0f} MiB",
            hint="omit more files in dev/gpubundle/contents.py",
        )
    partial.replace(archive)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _install_all(site: Path, installed: Path, *, python: str) -> set[str]:
    """Install the packages of the bundle and return their names.

    ``installed`` describes them, too, but can have other versions, which need other packages.
    """
    names: set[str] = set()
    while (needed := contents.missing(site, installed)) != names:
        names = needed
        _install(names, site, python=python)
    return names


def _install(names: Iterable[str], site: Path, *, python: str) -> None:
    """Install pinned packages into a folder, for a Python that this machine need not have."""
    requirements = site.with_name("requirements.txt")
    requirements.write_text(pinned(CONSTRAINTS.read_text(), names))
    command = [environment.uv(), "pip", "install", "--python", sys.executable]
    command += ["--target", str(site), "--python-version", python]
    command += ["--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"]
    command += ["--no-deps", "--require-hashes", "--requirement", str(requirements)]
    LOG.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(site, ignore_errors=True)
    logged(command, LOG, env={"UV_SYSTEM_CERTS": "1"}, hint=INDEX_HINT)


def pinned(constraints: str, names: Iterable[str]) -> str:
    """Return the lines of a constraints file, with their hashes, that pin these packages."""
    wanted, kept, listed = set(names), [], set()
    keep = False
    for line in constraints.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            name = line.partition("==")[0].strip()
            keep = name in wanted
            listed.add(name)
        if keep:
            kept.append(line)
    if unknown := sorted(wanted - listed):
        raise ValueError(f"the constraints do not pin {', '.join(unknown)}")
    return "\n".join([*kept, ""])
