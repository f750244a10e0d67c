"""Run helm on the chart, and read the objects that it renders."""

import functools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "finetune-operator"
# Always passed: the version that is built into helm can be years old.
KUBERNETES = "1.34.4"

Object = dict[str, Any]
Values = dict[str, Any]


class RenderError(Exception):
    """Helm failed; the text is its output."""


def binary() -> str:
    """Return the path of the helm program. Raises RuntimeError with the remediation."""
    own = Path(os.environ.get("KUBEBUILDER_ASSETS", ""), "helm")
    found = str(own) if own.is_file() else shutil.which("helm")
    if found is None:
        raise RuntimeError(
            "helm is neither in KUBEBUILDER_ASSETS nor on the PATH; "
            "run: export KUBEBUILDER_ASSETS=$(python3 dev/cluster assets)"
        )
    return found


@functools.cache
def version() -> tuple[int, ...]:
    """Return the major and minor version of helm."""
    template = [binary(), "version", "--template={{.Version}}"]
    printed = subprocess.run(template, text=True, capture_output=True, check=True).stdout
    major, minor, *_ = printed.removeprefix("v").split(".")
    return int(major), int(minor)


def over_existing() -> tuple[str, ...]:
    """Return the options for an installation over an existing CRD (see values.yaml)."""
    conflicts = () if version() < (4,) else ("--force-conflicts",)
    return ("--take-ownership", *conflicts)


def run(*arguments: str, values: Values | None = None) -> str:
    """Run helm, with ``values`` over those of the chart; return its output. Raises RenderError."""
    done = subprocess.run(
        [binary(), *arguments, "--values=-"],
        input=json.dumps(values or {}),
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise RenderError(done.stdout + done.stderr)
    return done.stdout


def template(
    values: Values | None = None, *, release: str = "finetune-operator", only: str = ""
) -> str:
    """Return the rendered manifests as text; ``only`` selects one template."""
    arguments = ["template", release, str(CHART), "--namespace=finetune-system"]
    arguments.append(f"--kube-version={KUBERNETES}")
    if only:
        arguments += ["--show-only", f"templates/{only}.yaml"]
    return _rendered(tuple(arguments), json.dumps(values or {}))


@functools.cache
def _rendered(arguments: tuple[str, ...], values: str) -> str:
    """Render once for all tests with the same values. No test changes the files of the chart."""
    return run(*arguments, values=json.loads(values))


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The objects that the chart renders."""

    objects: tuple[Object, ...]

    def all(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str = "finetune-operator") -> Object:
        """Return the object of this kind and name."""
        (found,) = [each for each in self.all(kind) if each["metadata"]["name"] == name]
        return found

    @property
    def pod(self) -> Object:
        """The pod spec in the Deployment of the operator."""
        spec: Object = self.all("Deployment")[0]["spec"]["template"]["spec"]
        return spec

    @property
    def config(self) -> Object:
        """The operator configuration in the ConfigMap."""
        (configmap,) = (each for each in self.all("ConfigMap") if "config.yaml" in each["data"])
        config: Object = yaml.safe_load(configmap["data"]["config.yaml"])
        return config


def render(values: Values | None = None, *, release: str = "finetune-operator") -> Rendered:
    """Return the objects that the chart renders with ``values``. Raises RenderError."""
    # The loader in C: the CRD takes a quarter of a second in Python.
    documents = yaml.load_all(template(values, release=release), yaml.CSafeLoader)
    return Rendered(objects=tuple(found for found in documents if found))
