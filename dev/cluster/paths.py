"""Paths of the local cluster.

All files are below ``${XDG_CACHE_HOME:-~/.cache}/finetune-operator``, except those that must not
survive a reboot (sockets, mounts), which are below ``/run/finetune-operator``.
"""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
DEV = REPO / "dev"
SOURCES = Path(__file__).resolve().parent

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator"
BINARIES = CACHE / "bin"
IMAGES = CACHE / "images"
BUILDAH_ROOT = IMAGES / "buildah"
REGISTRY_ROOT = IMAGES / "registry"
HUB_CONTENT = CACHE / "hub"

STATE = CACHE / "cluster"
LOGS = STATE / "logs"
PIDS = STATE / "pids"
PKI = STATE / "pki"
ETC = STATE / "etc"
ETCD_DATA = STATE / "etcd"
# With the images, because unpacking them again would add a minute to every start.
CONTAINERD_ROOT = IMAGES / "containerd"
KUBELET_ROOT = STATE / "kubelet"
VOLUMES = STATE / "volumes"
SMALL_VOLUMES = STATE / "volumes-small"
KUBECONFIG = STATE / "kubeconfig"

RUN = Path("/run/finetune-operator")
CONTAINERD_STATE = RUN / "containerd"
CONTAINERD_SOCKET = RUN / "containerd.sock"
BUILDAH_RUN = RUN / "buildah"
LOCK = CACHE / "lock"
