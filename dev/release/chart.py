"""The chart of a release, which names the published images, and the same objects as a manifest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

from release import images
from release.location import Location

NAME = "finetune-operator"
NAMESPACE = "finetune-system"
OF_HELM = re.compile(r"^\s+(helm\.sh/chart|helm\.sh/resource-policy): .*\n", re.MULTILINE)
MANAGED = "app.kubernetes.io/managed-by: Helm"
EMPTY_ANNOTATIONS = re.compile(r"^  annotations:\n(?=  \S|\S)", re.MULTILINE)


def package(root: Path, location: Location, folder: Path) -> Path:
    """Write the package of the chart and install.yaml; return the path of the package.

    Raises CalledProcessError if Helm rejects the chart.
    """
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / NAME
        shutil.copytree(root / "charts" / NAME, staged)
        _stage(staged, location)
        _helm("package", str(staged), "--destination", str(folder))
        rendered = _helm("template", NAME, str(staged), "--namespace", NAMESPACE)
    (folder / "install.yaml").write_text(manifest(rendered), encoding="utf-8")
    return folder / f"{NAME}-{location.version}.tgz"


def push(package: Path, location: Location) -> list[str]:
    """Return the command that pushes a package. It needs a login (``helm registry login``)."""
    return [helm(), "push", str(package), location.charts]


def reference(location: Location) -> str:
    """Return the repository of the chart."""
    return f"{location.charts.removeprefix('oci://')}/{NAME}"


def digest(output: str) -> str:
    """Return the digest in the output of ``helm push``; zeros in a dry run."""
    match = re.search(r"^Digest: (sha256:[0-9a-f]{64})$", output, re.MULTILINE)
    return match[1] if match else images.UNKNOWN_DIGEST


def helm() -> str:
    """Return the Helm command: that of the development environment, otherwise that of the PATH."""
    own = Path(os.environ.get("KUBEBUILDER_ASSETS", ""), "helm")
    return str(own) if own.is_file() else "helm"


def manifest(rendered: str) -> str:
    """Return objects for ``kubectl apply --server-side``: with their namespace, without Helm."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    text = OF_HELM.sub("", rendered).replace(MANAGED, "app.kubernetes.io/managed-by: kubectl")
    text = EMPTY_ANNOTATIONS.sub("", text)
    return f"---\n{yaml.safe_dump(namespace, sort_keys=False)}{text}"


def _stage(chart: Path, location: Location) -> None:
    """Write the location of the release into a copy of the chart."""
    values = chart / "values.yaml"
    text = values.read_text(encoding="utf-8")
    for name in dict.fromkeys(image.name for image in images.IMAGES):
        line = f"repository: {name}\n"
        if text.count(line) != 1:
            raise ValueError(f"values.yaml must have the line {line.strip()!r} once")
        text = text.replace(line, f"repository: {location.registry}/{name}\n")
    values.write_text(text, encoding="utf-8")
    readme = chart / "README.md"
    text = readme.read_text(encoding="utf-8").replace("$REGISTRY", location.registry)
    readme.write_text(text, encoding="utf-8")
    metadata = chart / "Chart.yaml"
    fields = yaml.safe_load(metadata.read_text(encoding="utf-8"))
    fields["version"] = fields["appVersion"] = location.version
    fields["annotations"]["artifacthub.io/images"] = yaml.safe_dump(
        [
            {"name": f"{image.name}{image.suffix}", "image": image.reference(location)}
            for image in images.IMAGES
        ],
        sort_keys=False,
    )
    metadata.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")


def _helm(*words: str) -> str:
    command = [helm(), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
