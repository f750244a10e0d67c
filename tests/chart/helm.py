"""Helm, as the tests use it: what the chart makes of values."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "finetune-operator"
# Given always: a helm that was built without it believes in a Kubernetes of years ago.
KUBERNETES = "1.34.4"

Object = dict[str, Any]
Values = dict[str, Any]


class Refused(Exception):
    """Helm would not render; the text is what it said."""


def binary() -> str:
    """Return the helm to run. Raises RuntimeError with the way out."""
    own = Path(os.environ.get("KUBEBUILDER_ASSETS", ""), "helm")
    found = str(own) if own.is_file() else shutil.which("helm")
    if found is None:
        raise RuntimeError(
            "neither KUBEBUILDER_ASSETS nor PATH has helm; "
            "say: export KUBEBUILDER_ASSETS=$(python3 dev/cluster assets)"
        )
    return found


def run(*arguments: str, values: Values | None = None) -> str:
    """Run helm on the chart, with ``values`` above the chart's. Raises Refused."""
    done = subprocess.run(
        [binary(), *arguments, "--values=-"],
        input=json.dumps(values or {}),
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise Refused(done.stdout + done.stderr)
    return done.stdout


def template(
    values: Values | None = None, *, release: str = "finetune-operator", only: str = ""
) -> str:
    """Return the manifests as text; ``only`` names one template."""
    arguments = ["template", release, str(CHART), "--namespace=finetune-system"]
    arguments.append(f"--kube-version={KUBERNETES}")
    if only:
        arguments += ["--show-only", f"templates/{only}.yaml"]
    return run(*arguments, values=values)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The objects that the chart makes."""

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
        """The operator's pod, as its Deployment has it."""
        spec: Object = self.all("Deployment")[0]["spec"]["template"]["spec"]
        return spec

    @property
    def config(self) -> Object:
        """The operator's configuration."""
        (configmap,) = self.all("ConfigMap")
        config: Object = yaml.safe_load(configmap["data"]["config.yaml"])
        return config


def render(values: Values | None = None, *, release: str = "finetune-operator") -> Rendered:
    """Return the objects that the chart makes of ``values``. Raises Refused."""
    documents = yaml.safe_load_all(template(values, release=release))
    return Rendered(objects=tuple(found for found in documents if found))
