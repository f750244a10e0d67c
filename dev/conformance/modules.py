"""The Go modules of the tested versions."""

from __future__ import annotations

from pathlib import Path

from cluster import paths
from cluster.artifacts import binaries
from cluster.artifacts.gomodule import Module

CACHE = paths.CACHE / "conformance"
ARGOCD = Module(
    path="github.com/argoproj/argo-cd/v3",
    version="v3.5.7",
    packages={"argocd": "./cmd"},
    edits=(
        (
            r"=> \./gitops-engine",
            "=> github.com/argoproj/argo-cd/gitops-engine v0.0.0-20260914071520-c9c369efcc5b",
        ),
    ),
)
# The version of the workflow `release`.
COSIGN = Module(
    path="github.com/sigstore/cosign/v2", version="v2.4.3", packages={"cosign": "./cmd/cosign"}
)
COSIGN_3 = Module(
    path="github.com/sigstore/cosign/v3", version="v3.1.3", packages={"cosign": "./cmd/cosign"}
)
REGISTRY = Module(
    path="github.com/google/go-containerregistry",
    version="v0.22.1",
    # Its registry is a library; the program is compiled as if it were part of the module.
    packages={"crane": "./cmd/crane", "registry": str(Path(__file__).with_name("registry.go"))},
)
VERSITYGW = Module(
    path="github.com/versity/versitygw", version="v1.8.0", packages={"versitygw": "./cmd/versitygw"}
)
# The version of etcd in the tests.
ETCDUTL = Module(
    path="go.etcd.io/etcd/etcdutl/v3",
    version="v3.6.4",
    packages={"etcdutl": "."},
    # Folders of the repository that are not part of the module.
    edits=((r"\tgo\.etcd\.io/etcd/\S+ => \.\./\S+\n", ""),),
)
OTHER_PATCHES = {
    "1.31.14": {
        "endpointslice": "0.31.13",
        "kube-controller-manager": "0.31.13",
        "kube-proxy": "0.31.11",
        "kube-scheduler": "0.31.13",
    }
}
"""Libraries whose patch release the Go module proxy does not have. Except endpointslice, they are
types of configuration files."""


def kubernetes(version: str) -> Module:
    """Return the module of the control plane, for a version like ``1.34.4``."""
    _, minor, patch = version.split(".")
    libraries = OTHER_PATCHES.get(version, {})
    return Module(
        path="k8s.io/kubernetes",
        version=f"v{version}",
        packages={name: f"./cmd/{name}" for name in ("kube-apiserver", "kube-controller-manager")},
        flags=binaries.kubernetes_flags(f"v{version}"),
        edits=(
            # No program imports the examples.
            (r"\tk8s\.io/sample-.*\n", ""),
            *(
                (rf"=> \./staging/src/(k8s\.io/{name})\n", rf"=> \1 v{other}\n")
                for name, other in libraries.items()
            ),
            (r"=> \./staging/src/(k8s\.io/\S+)", rf"=> \1 v0.{minor}.{patch}"),
        ),
    )


def helm(version: str, *, kubernetes: str = "") -> Module:
    """Return the module of Helm, for a version like ``3.17.4``.

    kubernetes: the minor version of Kubernetes for which a release of Helm 3 renders charts, which
    its Makefile sets. Without it, that is 1.20. Helm 4 needs no flag.
    """
    path = f"helm.sh/helm/v{version.partition('.')[0]}"
    flags = Module.flags
    if kubernetes:
        major, minor = kubernetes.split(".")
        for package in ("chartutil", "lint/rules"):
            variable = f"{path}/pkg/{package}.k8sVersion"
            flags += f" -X {variable}Major={major} -X {variable}Minor={minor}"
    return Module(path=path, version=f"v{version}", packages={"helm": "./cmd/helm"}, flags=flags)


def folder(module: Module) -> Path:
    """Return the folder of the programs of a module."""
    # The last element that is no version: kubernetes, helm, argo-cd.
    name = next(part for part in reversed(module.path.split("/")) if part.strip("v0123456789"))
    return CACHE / f"{name}-{module.version}"
