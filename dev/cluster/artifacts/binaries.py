"""The programs of the cluster, built from source once and cached.

They are in ``bin/<key>/``; the key is a hash of all build inputs (module files, Go sources of this
repository, flags, architecture). A program is published by rename, so an interrupted build leaves
no partial files. The folder can be used as ``KUBEBUILDER_ASSETS``.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster import paths
from cluster.artifacts import golang
from cluster.phases import phase
from cluster.settings import KUBERNETES_VERSION
from cluster.shell import logged, run

_VERSION = "k8s.io/component-base/version"
_HELM = "helm.sh/helm/v3/pkg/chartutil"


def kubernetes_flags(version: str) -> str:
    """Return the linker flags of Kubernetes' programs, for a version like ``v1.34.4``."""
    major, minor = version.removeprefix("v").split(".")[:2]
    return " ".join(
        [
            "-s -w",
            f"-X {_VERSION}.gitVersion={version}",
            f"-X {_VERSION}.gitMajor={major}",
            f"-X {_VERSION}.gitMinor={minor}",
            f"-X {_VERSION}.gitTreeState=clean",
        ]
    )


KUBERNETES_FLAGS = kubernetes_flags(KUBERNETES_VERSION)
_MAJOR, _MINOR = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Programs of one ``go build``; ``packages`` maps the name of each to its package path."""

    name: str
    module: str
    flags: str
    packages: dict[str, str]
    manifests: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    """Install manifests next to the programs: file name to a module and the folder of a
    kustomization in it. They are rendered with the kubectl of the control plane."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that the group builds."""
        return (*self.packages, *self.manifests)


def _kubernetes(*names: str) -> dict[str, str]:
    return {name: f"k8s.io/kubernetes/cmd/{name}" for name in names}


CONTROL_PLANE = Group(
    name="control plane",
    module="kubernetes",
    flags=KUBERNETES_FLAGS,
    packages={
        "etcd": "go.etcd.io/etcd/server/v3",
        **_kubernetes("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
    },
)
NODE = Group(
    name="node",
    module="kubernetes",
    flags=KUBERNETES_FLAGS,
    packages={
        **_kubernetes("kubelet", "kube-proxy"),
        "coredns": "./coredns",
        "kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
        "pause": "./pause",
    },
)
# A separate build: it imports a package by an upper-case name that the other programs import in
# lower case, and one build cannot contain both.
VOLUMES = Group(
    name="volume",
    module="kubernetes",
    flags=KUBERNETES_FLAGS,
    packages={"local-path-provisioner": "github.com/rancher/local-path-provisioner"},
)
HELM = Group(
    name="helm",
    module="helm",
    # Without these flags helm renders charts for a much older Kubernetes version.
    flags=f"-s -w -X {_HELM}.k8sVersionMajor={_MAJOR} -X {_HELM}.k8sVersionMinor={_MINOR}",
    packages={"helm": "helm.sh/helm/v3/cmd/helm"},
)
# The Lua interpreter of Argo CD, for its health checks.
GITOPS = Group(
    name="GitOps",
    module="gitops",
    flags="-s -w",
    packages={"glua": "github.com/yuin/gopher-lua/cmd/glua"},
)
# For the tests with a queue that suspends Jobs.
KUEUE = Group(
    name="Kueue",
    module="kueue",
    flags="-s -w",
    packages={"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
    manifests={"kueue.yaml": ("sigs.k8s.io/kueue", "config/default")},
)
# Helm, Lua and Kueue last: they share no packages with the others, and the cluster starts without
# them.
ALL = (CONTROL_PLANE, NODE, VOLUMES, HELM, GITOPS, KUEUE)
CLUSTER = (CONTROL_PLANE, NODE, VOLUMES)
ASSETS = (CONTROL_PLANE, HELM, GITOPS)


def key() -> str:
    """Return the hash of all build inputs."""
    digest = hashlib.sha256(platform.machine().encode())
    for group in ALL:
        digest.update(repr(group).encode())
    for file in sorted(golang.MODULES.rglob("*")):
        if file.is_file() and (file.suffix == ".go" or file.name in ("go.mod", "go.sum")):
            digest.update(str(file.relative_to(golang.MODULES)).encode() + b"\0")
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def folder() -> Path:
    """Return the folder of the programs, which may not exist yet."""
    return paths.BINARIES / key()


def program(name: str) -> str:
    """Return the path of a program."""
    return str(folder() / name)


def ensure(*groups: Group) -> Path:
    """Build the missing programs of these groups; return the folder."""
    target = folder()
    if not _missing(groups, target):
        return target
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:
        # Concurrent builds would only compete for the cores.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for group in groups:
            names = _missing((group,), target)
            if names:
                with phase(f"build {group.name} programs: {', '.join(names)}"):
                    _build(group, names, target)
    _forget_old(target)
    return target


def _missing(groups: tuple[Group, ...], target: Path) -> list[str]:
    return [name for group in groups for name in group.files if not (target / name).exists()]


def _build(group: Group, names: list[str], target: Path) -> None:
    go = golang.find()
    log = paths.LOGS / "build-binaries.log"
    env = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}
    module = golang.MODULES / group.module
    with tempfile.TemporaryDirectory(dir=target, prefix=".partial-") as folder:
        partial = Path(folder)
        if packages := [package for name, package in group.packages.items() if name in names]:
            command = [go, "build", "-trimpath", "-ldflags", group.flags, "-o", folder + os.sep]
            hint = "check that the Go module proxy is reachable, then run the same command again"
            logged([*command, *packages], log, env=env, cwd=module, hint=hint)
        for name in names:
            if name in group.packages:
                built = partial / _output_name(group.packages[name])
            else:
                built = partial / name
                built.write_text(_rendered(go, module, *group.manifests[name], env=env))
            built.replace(target / name)


def _rendered(go: str, module: Path, of: str, folder: str, *, env: Mapping[str, str]) -> str:
    """Render a kustomization of a module, in the same version as the programs."""
    downloaded = json.loads(run([go, "mod", "download", "-json", of], env=env, cwd=module).stdout)
    return run([program("kubectl"), "kustomize", str(Path(downloaded["Dir"], folder))]).stdout


def _output_name(package: str) -> str:
    """Return the file name of ``go build -o <folder>/``: the last element that is no version."""
    *_, parent, last = package.split("/")
    return parent if last.startswith("v") and last[1:].isdigit() else last


def _forget_old(target: Path) -> None:
    """Keep this folder and the most recently used other one; each has half a gigabyte."""
    os.utime(target)
    others = sorted(
        (other for other in paths.BINARIES.iterdir() if other != target),
        key=lambda other: other.stat().st_mtime,
        reverse=True,
    )
    for other in others[1:]:
        shutil.rmtree(other, ignore_errors=True)
