"""Debian packages that the local cluster needs: installs what is missing, nothing else."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from cluster import paths
from cluster.errors import Unsupported
from cluster.phases import phase
from cluster.shell import capture, logged, run

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
SEARCH = os.pathsep.join(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin"])


def _present(evidence: str) -> bool:
    if evidence.startswith("/"):
        return os.path.exists(evidence)
    return shutil.which(evidence, path=SEARCH) is not None


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
    os.environ["PATH"] = os.environ.get("PATH", "") + os.pathsep + SEARCH
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
    with phase(f"install Debian packages: {' '.join(names)}"), _no_service_starts():
        logged(["apt-get", "update"], log, env=env)
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


@functools.cache
def host_release() -> tuple[str, str]:
    """The Debian release and mirror for images built here: the host's own, if it is Debian."""
    fields = dict(
        line.split("=", 1)
        for line in run(["cat", "/etc/os-release"]).stdout.splitlines()
        if "=" in line
    )
    codename = fields.get("VERSION_CODENAME", "").strip('"')
    if fields.get("ID", "").strip('"') != "debian" or not codename:
        return "bookworm", ""
    policy = capture(["apt-cache", "policy"])
    for line in policy.splitlines():
        words = line.split()
        if len(words) >= 3 and words[2] == f"{codename}/main":
            return codename, words[1]
    return codename, ""
