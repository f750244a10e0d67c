"""Python of a Debian suite: a root file system with the packages of the operator and its tests.

Commands run in the root (chroot), with the repository and the cache at the same paths as outside.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import shutil
from pathlib import Path

from checks import environment
from cluster import packages, paths
from cluster.phases import phase
from cluster.shell import INDEX_HINT, capture, logged
from conformance import modules

INCLUDED = "python3,ca-certificates,openssl"
CONSTRAINTS = ("operator", "dev")
# Binds the folders that tests need, then runs the arguments after "--" in the root.
ENTER = """
set -eu
root=$1; shift
for folder in /dev /proc /sys; do mount --rbind "$folder" "$root$folder"; done
while [ "$1" != -- ]; do
  mkdir -p "$root$1"
  mount --bind "$1" "$root$1"
  shift
done
shift
exec chroot "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Python:
    """An interpreter: its version, and the command that runs it in its root."""

    version: str
    command: tuple[str, ...]


def ensure(suite: str) -> Python:
    """Create the root of a suite if it is missing or its packages changed. Raises ClusterError."""
    digest = hashlib.sha256(INCLUDED.encode())
    for name in CONSTRAINTS:
        digest.update(_constraints(name).read_bytes())
    root = modules.CACHE / f"debian-{suite}-{digest.hexdigest()[:12]}"
    modules.CACHE.mkdir(parents=True, exist_ok=True)
    with (modules.CACHE / f"debian-{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            with phase(f"install Python of Debian {suite}"):
                for old in modules.CACHE.glob(f"debian-{suite}-*"):
                    shutil.rmtree(old)
                partial = root.with_name(f"partial-{suite}")
                shutil.rmtree(partial, ignore_errors=True)
                _install(suite, partial)
                partial.rename(root)
    return Python(version=_version(root), command=_command(root))


def _version(root: Path) -> str:
    program = "import platform; print(platform.python_version())"
    return capture([*_command(root), "-c", program], cwd=paths.REPO)


def _command(root: Path) -> tuple[str, ...]:
    shared = (str(paths.REPO), str(paths.CACHE))
    enter = ("unshare", "--mount", "--", "sh", "-c", ENTER, "enter", str(root), *shared)
    return (*enter, "--", "/usr/bin/python3")


def _constraints(name: str) -> Path:
    return paths.REPO / "constraints" / f"{name}.txt"


def _install(suite: str, root: Path) -> None:
    log = paths.LOGS / f"debian-{suite}.log"
    mirror = packages.host_mirror()
    command = ["debootstrap", "--variant=minbase", f"--include={INCLUDED}", suite, str(root)]
    hint = "check that the Debian mirror is reachable, then run the same command again"
    logged([*command, *([mirror] if mirror else [])], log, hint=hint)
    for cached in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(root / cached, ignore_errors=True)
    _install_packages(root, log)


def _install_packages(root: Path, log: Path) -> None:
    """Install the pinned packages where Python of Debian finds those of the administrator."""
    version = _version(root)
    minor = ".".join(version.split(".")[:2])
    folder = root / "usr/local/lib" / f"python{minor}" / "dist-packages"
    # The files pin all dependencies, also where packages disagree (constraints/overrides.txt).
    command = [environment.uv(), "pip", "install", "--no-deps", "--require-hashes"]
    command += ["--python-version", version, "--only-binary", ":all:", "--target", str(folder)]
    for name in CONSTRAINTS:
        command += ["--requirement", str(_constraints(name))]
    logged(command, log, env={"UV_SYSTEM_CERTS": "1"}, hint=INDEX_HINT)
