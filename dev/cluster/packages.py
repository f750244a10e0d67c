"""Install the Debian packages that the local cluster requires and that are missing."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster import paths
from cluster.errors import ClusterError, Unsupported
from cluster.phases import phase
from cluster.shell import SEARCH, capture, logged, prepare, run

# Debian moves this part of the standard library of Python to the package python3-venv.
VENV = os.path.join(sysconfig.get_path("stdlib"), "ensurepip")
# Packages, with a program or file that proves the installation.
REQUIRED = {
    "buildah": "buildah",
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "debootstrap": "debootstrap",
    "docker-registry": "docker-registry",
    "ipset": "ipset",
    "iproute2": "ip",
    "iptables": "iptables",
    "kmod": "modprobe",
    "netavark": "/usr/lib/podman/netavark",
    "nftables": "nft",
    "openssl": "openssl",
    # containerd uses it, if installed, to unpack images in half the time.
    "pigz": "pigz",
    # promtool: the tests check the metrics of the operator with it.
    "prometheus": "promtool",
    "python3-venv": VENV,
    "runc": "runc",
    "socat": "socat",
}
HINT = (
    "check that the package mirror is reachable and no other package manager is running; "
    "on Ubuntu, run `add-apt-repository universe` to enable the repository that has buildah, "
    "netavark and docker-registry"
)
POLICY = Path("/usr/sbin/policy-rc.d")
UNITS = (".path", ".service", ".socket", ".timer")


def _present(evidence: str) -> bool:
    if evidence.startswith("/"):
        return os.path.exists(evidence)
    return shutil.which(evidence, path=os.pathsep.join(SEARCH)) is not None


def missing() -> list[str]:
    """Return the names of the packages that are not installed."""
    return sorted(name for name, evidence in REQUIRED.items() if not _present(evidence))


def ensure() -> None:
    """Install the missing packages. Requires root, and Debian or Ubuntu. Raises Unsupported."""
    if os.geteuid() != 0:
        raise Unsupported(
            "the local cluster requires root for containers, network and mounts",
            hint="run the command as root, or use your own cluster: make run CLUSTER=current",
        )
    prepare()
    _install(missing())


def ensure_programs(needed: Mapping[str, str]) -> None:
    """Install the packages whose programs are missing. Raises Unsupported."""
    _install([name for name, evidence in needed.items() if not _present(evidence)])


def ensure_venv() -> None:
    """Install the requirements of ``python -m venv``. Raises Unsupported."""
    if _present(VENV):
        return
    if os.geteuid() != 0:
        raise Unsupported(
            f"{sys.executable} cannot create virtual environments, because it has no ensurepip",
            hint="install python3-venv, or add uv to the PATH",
        )
    _install(["python3-venv"])


def _install(names: list[str]) -> None:
    if not names:
        return
    if shutil.which("apt-get") is None:
        raise Unsupported(
            f"apt-get is not available to install the missing packages: {' '.join(names)}",
            hint="install them manually, or use your own cluster: make run CLUSTER=current",
        )
    log = paths.LOGS / "packages.log"
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    with (
        phase(f"install Debian packages: {' '.join(names)}"),
        _no_service_starts(),
        _no_service_at_boot(),
    ):
        logged(["apt-get", "update"], log, env=env, hint=HINT)
        command = ["apt-get", "install", "-y", "--no-install-recommends", *names]
        logged(command, log, env=env, hint=HINT)
    still = sorted(set(missing()) & set(names))
    if still:
        raise Unsupported(
            f"the packages are installed, but these programs are not found: {' '.join(still)}",
            log=log,
        )


def ensure_lists() -> None:
    """Download the package lists that apt-cache reads, if the machine has none."""
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        with phase("download the package lists"):
            logged(["apt-get", "update"], paths.LOGS / "packages.log", hint=HINT)


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Prevent the start of the services of the packages, such as containerd and docker-registry.

    The cluster runs its own instances. On Debian, a ``policy-rc.d`` that exits with 101 forbids
    starts; an existing one is not changed.
    """
    created = not POLICY.exists()
    if created:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if created:
            POLICY.unlink()


@contextlib.contextmanager
def _no_service_at_boot() -> Iterator[None]:
    """Disable the services of newly installed packages, so that the next boot does not start them.

    docker-registry would use the port of the local registry. Services of packages that were
    installed before are not changed.
    """
    before = _installed()
    try:
        yield
    finally:
        for unit in _units(_installed() - before):
            # Fails if the unit was not enabled, or systemd is not running.
            with contextlib.suppress(ClusterError):
                run(["systemctl", "disable", unit], check=False, timeout=60)


def _installed() -> set[str]:
    """Return the installed packages; empty without systemd, which would start their services."""
    if shutil.which("systemctl") is None or shutil.which("dpkg-query") is None:
        return set()
    listed = run(["dpkg-query", "-W", "-f", "${binary:Package} ${db:Status-Status}\n"], check=False)
    lines = [line.split() for line in listed.stdout.splitlines()]
    return {name for name, status in lines if status not in ("not-installed", "config-files")}


def _units(names: set[str]) -> list[str]:
    """Return the systemd units of these packages."""
    if not names:
        return []
    files = map(Path, run(["dpkg-query", "-L", *sorted(names)], check=False).stdout.splitlines())
    return sorted(
        {
            file.name
            for file in files
            if str(file.parent).endswith("/lib/systemd/system")
            and file.suffix in UNITS
            # A link can be an alias of a unit of another package.
            and not file.is_symlink()
        }
    )


@functools.cache
def host_mirror() -> str:
    """Return the Debian mirror that this machine uses; empty if there is none."""
    fields = dict(
        line.split("=", 1)
        for line in run(["cat", "/etc/os-release"]).stdout.splitlines()
        if "=" in line
    )
    codename = fields.get("VERSION_CODENAME", "").strip('"')
    if fields.get("ID", "").strip('"') != "debian" or not codename:
        return ""
    return mirror(capture(["apt-cache", "policy"]), codename)


def mirror(policy: str, codename: str) -> str:
    """Return the Debian mirror in an output of ``apt-cache policy``; empty without a usable one.

    debootstrap cannot read the ``mirror+file:`` of cloud images, and other repositories can use the
    release names of Debian.
    """
    for line, release in itertools.pairwise(policy.splitlines()):
        words = line.split()
        if (
            len(words) >= 3
            and words[1].startswith(("http://", "https://"))
            and words[2] == f"{codename}/main"
            and "o=Debian" in release.strip().removeprefix("release ").split(",")
        ):
            return words[1]
    return ""
