"""Installs the operator with its Helm chart, on the local cluster or on the current context."""

from __future__ import annotations

import dataclasses

from cluster import binaries, images, paths
from cluster.errors import ClusterError
from cluster.phases import phase
from cluster.settings import OPERATOR_NAMESPACE, OPERATOR_RELEASE
from cluster.shell import logged, run

CHART = paths.REPO / "charts" / "finetune-operator"
VALUES = paths.SOURCES / "values.yaml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A cluster to install on: the local one, or the current context; and the images."""

    operator: str
    trainer: str
    serving: str
    local: bool
    hub_endpoint: str = ""

    @property
    def access(self) -> list[str]:
        """Options that make helm and kubectl talk to it."""
        return [f"--kubeconfig={paths.KUBECONFIG}"] if self.local else []


def local_target() -> Target:
    """The local cluster with images built from this repository."""
    built = images.ensure(images.OPERATOR, images.TRAINER, images.VLLM_CPU)
    return Target(
        operator=built[images.OPERATOR.name],
        trainer=built[images.TRAINER.name],
        serving=built[images.VLLM_CPU.name],
        local=True,
    )


def split_image(image: str) -> dict[str, str]:
    """The chart's repository, tag and digest values of an image reference."""
    name, _, digest = image.partition("@")
    head, _, last = name.rpartition("/")
    base, _, tag = last.partition(":")
    repository = f"{head}/{base}" if head else base
    if not (tag or digest):
        raise ClusterError(f"image {image} has neither a tag nor a digest")
    return {"repository": repository, "tag": tag, "digest": digest}


def install(target: Target) -> None:
    """Install or upgrade, and wait until the operator is ready."""
    values = {f"image.{key}": value for key, value in split_image(target.operator).items()}
    values |= {"trainer.image": target.trainer, "serving.image": target.serving}
    if target.hub_endpoint:
        values["hub.endpoint"] = target.hub_endpoint
    command = [binaries.program("helm"), *target.access, "upgrade", "--install"]
    command += [OPERATOR_RELEASE, str(CHART), "--namespace", OPERATOR_NAMESPACE]
    command += ["--create-namespace", "--wait", "--timeout=3m"]
    if target.local:
        command += ["--values", str(VALUES)]
    for key, value in values.items():
        command += ["--set-string", f"{key}={value}"]
    log = paths.LOGS / "install.log"
    with phase("install the operator"):
        hint = f"kubectl -n {OPERATOR_NAMESPACE} describe pods; logs of deploy/{OPERATOR_RELEASE}"
        logged(command, log, hint=hint)


def uninstall(target: Target) -> None:
    """Remove the release; the CRD and the jobs stay."""
    command = [binaries.program("helm"), *target.access, "uninstall", OPERATOR_RELEASE]
    run([*command, "--namespace", OPERATOR_NAMESPACE, "--wait"], timeout=180)
