"""The cluster of the tutorial: empty, with one simulated GPU and GKE's label of an NVIDIA L4."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from cluster import install, kubectl, lifecycle, packages, paths
from cluster.artifacts import binaries
from cluster.components import hub
from cluster.settings import GPU_PRODUCT, NODE_NAME
from tutorial.runner import Environment

VALUES = Path(__file__).parent / "values.yaml"
ENDPOINT = Path(__file__).parent / "endpoint.yaml"
GKE_LABEL, L4 = "cloud.google.com/gke-accelerator", "nvidia-l4"
GFD_LABEL = "nvidia.com/gpu.product"
LINKED = ("charts", "examples")


@contextlib.contextmanager
def empty_cluster() -> Iterator[Environment]:
    """Start a new cluster without the operator; yield the environment of the commands."""
    packages.ensure()
    built = install.build_everything()
    lifecycle.down()
    lifecycle.up()
    hub.start()
    with _labeled(), tempfile.TemporaryDirectory(prefix="finetune-tutorial-") as name:
        folder = Path(name)
        for path in LINKED:
            (folder / path).symlink_to(paths.REPO / path)
        (folder / "values.yaml").write_text(values(built))
        (folder / ENDPOINT.name).symlink_to(ENDPOINT)
        yield Environment(variables=_variables(), folder=folder)


@contextlib.contextmanager
def _labeled() -> Iterator[None]:
    """Replace the node label of GPU Feature Discovery by that of GKE."""
    label = functools.partial(kubectl.local().kubectl, "label", "node", NODE_NAME, "--overwrite")
    label(f"{GKE_LABEL}={L4}", f"{GFD_LABEL}-")
    try:
        yield
    finally:
        label(f"{GKE_LABEL}-", f"{GFD_LABEL}={GPU_PRODUCT}")


def values(images: install.Images) -> str:
    """Return the chart values with the images that were built."""
    chosen = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    for path, image in (
        (("image",), images.operator),
        (("trainer", "image"), images.trainer),
        (("serving", "image"), images.serving),
    ):
        group = chosen
        for step in path:
            group = group.setdefault(step, {})
        group |= {key: value for key, value in install.split_image(image).items() if value}
    return str(yaml.safe_dump(chosen, sort_keys=False, default_flow_style=None, width=100))


def _variables() -> dict[str, str]:
    path = f"{binaries.folder()}:{os.environ['PATH']}"
    local = f"127.0.0.1,localhost,{os.environ.get('NO_PROXY', '')}"
    return {
        **os.environ,
        "KUBECONFIG": str(paths.KUBECONFIG),
        "PATH": path,
        "NO_PROXY": local,
        "no_proxy": local,
    }
