"""The cluster's programs, built from source once and kept in the cache.

They lie in ``bin/<key>/``, where the key is a hash of everything that decides their content
(module files, our own Go sources, flags, architecture). A program appears there by rename, so a
build that was killed leaves nothing half-written. The folder serves as ``KUBEBUILDER_ASSETS``.
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

from cluster import golang, paths
from cluster.phases import phase
from cluster.settings import KUBERNETES_VERSION
from cluster.shell import logged, run

_VERSION = "k8s.io/component-base/version"
_HELM = "helm.sh/helm/v3/pkg/chartutil"
_MAJOR, _MINOR = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
KUBERNETES_FLAGS = " ".join(
    [
        "-s -w",
        f"-X {_VERSION}.gitVersion={KUBERNETES_VERSION}",
        f"-X {_VERSION}.gitMajor={_MAJOR}",
        f"-X {_VERSION}.gitMinor={_MINOR}",
        f"-X {_VERSION}.gitTreeState=clean",
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Programs that one ``go build`` makes: name to package path."""

    name: str
    module: str
    flags: str
    packages: dict[str, str]
    manifests: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    """What the programs are installed with, beside them: file name to module and the folder of a
    kustomization in it. Rendering them takes the control plane's kubectl."""

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all that it makes."""
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
# By itself: it imports a package by an upper-case name that the others import in lower case,
# and one build must not contain both.
VOLUMES = Group(
    name="volume",
    module="kubernetes",
    flags=KUBERNETES_FLAGS,
    packages={"local-path-provisioner": "github.com/rancher/local-path-provisioner"},
)
HELM = Group(
    name="helm",
    module="helm",
    # Without these it renders charts for a Kubernetes of years ago.
    flags=f"-s -w -X {_HELM}.k8sVersionMajor={_MAJOR} -X {_HELM}.k8sVersionMinor={_MINOR}",
    packages={"helm": "helm.sh/helm/v3/cmd/helm"},
)
# The Lua that Argo CD runs health checks in.
GITOPS = Group(
    name="GitOps",
    module="gitops",
    flags="-s -w",
    packages={"glua": "github.com/yuin/gopher-lua/cmd/glua"},
)
# For one test: that of a queue which somebody else runs.
KUEUE = Group(
    name="Kueue",
    module="kueue",
    flags="-s -w",
    packages={"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
    manifests={"kueue.yaml": ("sigs.k8s.io/kueue", "config/default")},
)
# Helm, Lua and Kueue last: they share nothing with the rest, and the cluster starts without them.
ALL = (CONTROL_PLANE, NODE, VOLUMES, HELM, GITOPS, KUEUE)
CLUSTER = (CONTROL_PLANE, NODE, VOLUMES)
ASSETS = (CONTROL_PLANE, HELM, GITOPS)


def key() -> str:
    """Hash of everything that decides what the programs are."""
    digest = hashlib.sha256(platform.machine().encode())
    for group in ALL:
        digest.update(repr(group).encode())
    for file in sorted(golang.MODULES.rglob("*")):
        if file.is_file() and (file.suffix == ".go" or file.name in ("go.mod", "go.sum")):
            digest.update(str(file.relative_to(golang.MODULES)).encode() + b"\0")
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def folder() -> Path:
    """Where the programs are, or will be."""
    return paths.BINARIES / key()


def program(name: str) -> str:
    """Path of a built program."""
    return str(folder() / name)


def ensure(*groups: Group) -> Path:
    """Build what is missing of these groups; returns the folder."""
    target = folder()
    if not _missing(groups, target):
        return target
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:
        # Two builds at once would only take the cores from each other.
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
            hint = "the Go module proxy must be reachable; try again"
            logged([*command, *packages], log, env=env, cwd=module, hint=hint)
        for name in names:
            if name in group.packages:
                built = partial / _output_name(group.packages[name])
            else:
                built = partial / name
                built.write_text(_rendered(go, module, *group.manifests[name], env=env))
            built.replace(target / name)


def _rendered(go: str, module: Path, of: str, folder: str, *, env: Mapping[str, str]) -> str:
    """Render a kustomization of a module that was built: the version is that of its programs."""
    downloaded = json.loads(run([go, "mod", "download", "-json", of], env=env, cwd=module).stdout)
    return run([program("kubectl"), "kustomize", str(Path(downloaded["Dir"], folder))]).stdout


def _output_name(package: str) -> str:
    """The file name that ``go build -o <folder>/`` gives: the last element without a version."""
    *_, parent, last = package.split("/")
    return parent if last.startswith("v") and last[1:].isdigit() else last


def _forget_old(target: Path) -> None:
    """Keep this and the one most recently used before; half a gigabyte each."""
    os.utime(target)
    others = sorted(
        (other for other in paths.BINARIES.iterdir() if other != target),
        key=lambda other: other.stat().st_mtime,
        reverse=True,
    )
    for other in others[1:]:
        shutil.rmtree(other, ignore_errors=True)
