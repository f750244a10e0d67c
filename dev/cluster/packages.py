"""Debian packages that the local cluster needs: installs what is missing, nothing else."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from cluster import paths
from cluster.errors import ClusterError, Unsupported
from cluster.phases import phase
from cluster.shell import SEARCH, capture, logged, prepare, run

# Debian keeps this part of Python's own library in the package python3-venv.
VENV = os.path.join(sysconfig.get_path("stdlib"), "ensurepip")
# Package and the program (or file) that shows it is there.
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
    # containerd unpacks with it when it is there, in half the time.
    "pigz": "pigz",
    # For promtool, which the tests ask about the operator's metrics.
    "prometheus": "promtool",
    "python3-venv": VENV,
    "runc": "runc",
    "socat": "socat",
}
HINT = (
    "the package mirror must be reachable and no other package manager running; on Ubuntu, "
    "add-apt-repository universe: buildah, netavark and docker-registry are there"
)
POLICY = Path("/usr/sbin/policy-rc.d")
UNITS = (".path", ".service", ".socket", ".timer")


def _present(evidence: str) -> bool:
    if evidence.startswith("/"):
        return os.path.exists(evidence)
    return shutil.which(evidence, path=os.pathsep.join(SEARCH)) is not None


def missing() -> list[str]:
    """Names of the packages that are not installed."""
    return sorted(name for name, evidence in REQUIRED.items() if not _present(evidence))


def ensure() -> None:
    """Install what is missing. Needs root and a Debian or Ubuntu machine."""
    if os.geteuid() != 0:
        raise Unsupported(
            "the local cluster needs root (containers, network, mounts)",
            hint="run it as root, or use your own cluster: make run CLUSTER=current",
        )
    prepare()
    _install(missing())


def ensure_venv() -> None:
    """What ``python -m venv`` needs, for whoever brings programs from the package index."""
    if _present(VENV):
        return
    if os.geteuid() != 0:
        raise Unsupported(
            f"{sys.executable} makes no virtual environments: it has no ensurepip",
            hint="install python3-venv, or put uv on the PATH",
        )
    _install(["python3-venv"])


def _install(names: list[str]) -> None:
    if not names:
        return
    if shutil.which("apt-get") is None:
        raise Unsupported(
            f"apt-get is not here to install: {' '.join(names)}",
            hint="install them by hand, or use your own cluster: make run CLUSTER=current",
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
        raise Unsupported(f"installed, but not found: {' '.join(still)}", log=log)


def ensure_lists() -> None:
    """The package lists that apt-cache reads; a fresh machine may have none."""
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        with phase("read the package lists"):
            logged(["apt-get", "update"], paths.LOGS / "packages.log", hint=HINT)


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Keep the packages' own services (containerd, docker-registry) from being started.

    The cluster runs its own instances; a ``policy-rc.d`` that says 101 is Debian's way to say
    "do not start". One that is there already is left alone.
    """
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink()


@contextlib.contextmanager
def _no_service_at_boot() -> Iterator[None]:
    """Keep the services of the packages that come meanwhile from being started at the next boot.

    docker-registry would have the port of ours then. Those that were there before are the user's.
    """
    before = _installed()
    try:
        yield
    finally:
        for unit in _units(_installed() - before):
            # One that cannot be disabled is none that was enabled, or systemd is not at home.
            with contextlib.suppress(ClusterError):
                run(["systemctl", "disable", unit], check=False, timeout=60)


def _installed() -> set[str]:
    """Packages whose files are here; empty where there is no systemd to start any of them."""
    if shutil.which("systemctl") is None or shutil.which("dpkg-query") is None:
        return set()
    listed = run(["dpkg-query", "-W", "-f", "${binary:Package} ${db:Status-Status}\n"], check=False)
    lines = [line.split() for line in listed.stdout.splitlines()]
    return {name for name, status in lines if status not in ("not-installed", "config-files")}


def _units(names: set[str]) -> list[str]:
    """The systemd units that these packages brought."""
    if not names:
        return []
    files = map(Path, run(["dpkg-query", "-L", *sorted(names)], check=False).stdout.splitlines())
    return sorted(
        {
            file.name
            for file in files
            if str(file.parent).endswith("/lib/systemd/system")
            and file.suffix in UNITS
            # A link can be another name of somebody else's unit.
            and not file.is_symlink()
        }
    )


@functools.cache
def host_mirror() -> str:
    """The Debian mirror that this machine has its own packages from; empty if there is none."""
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
    """Debian's mirror that ``apt-cache policy`` names, if debootstrap can read it; else empty.

    Cloud images have ``mirror+file:``, and others than Debian name a release like Debian's.
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
