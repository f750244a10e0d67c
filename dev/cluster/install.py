"""Installs the operator with its Helm chart, on the local cluster or on the current context."""

from __future__ import annotations

import dataclasses
import fcntl
from pathlib import Path

from cluster import hub, images, kubectl, paths, prepull
from cluster.errors import ClusterError
from cluster.phases import phase, side_by_side
from cluster.settings import OPERATOR_NAMESPACE, OPERATOR_RELEASE
from cluster.shell import logged

CHART = paths.REPO / "charts" / "finetune-operator"
VALUES = paths.SOURCES / "values.yaml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """The three images that an installation needs."""

    operator: str
    trainer: str
    serving: str


def local_images() -> Images:
    """Images built from this repository, in the local registry."""
    built = images.ensure(*images.ALL.values())
    return Images(
        operator=built[images.OPERATOR.name],
        trainer=built[images.TRAINER.name],
        serving=built[images.VLLM_CPU.name],
    )


def split_image(image: str) -> dict[str, str]:
    """The chart's repository, tag and digest values of an image reference."""
    name, _, digest = image.partition("@")
    head, slash, last = name.rpartition("/")
    base, _, tag = last.partition(":")
    if not (tag or digest):
        raise ClusterError(f"image {image} has neither a tag nor a digest")
    return {"repository": f"{head}{slash}{base}", "tag": tag, "digest": digest}


def beside_the_hub(chosen: Images) -> None:
    """Install on the local cluster, and start the hub there meanwhile."""
    side_by_side(hub.start, lambda: install(kubectl.local(), chosen, values=VALUES))


def install(
    client: kubectl.Client, chosen: Images, *, values: Path | None, hub_endpoint: str = ""
) -> None:
    """Install or upgrade, with a file of chart values, and wait until the operator is ready."""
    if client.kubeconfig is not None:
        prepull.start(client, chosen.trainer, chosen.serving)
    settings = {
        f"{path}.{key}": value
        for path, image in (
            ("image", chosen.operator),
            ("trainer.image", chosen.trainer),
            ("serving.image", chosen.serving),
        )
        for key, value in split_image(image).items()
    }
    if hub_endpoint:
        settings["hub.endpoint"] = hub_endpoint
    words = ["upgrade", "--install", OPERATOR_RELEASE, str(CHART)]
    words += ["--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--wait", "--timeout=3m"]
    if values is not None:
        words += ["--values", str(values)]
    for key, value in settings.items():
        words += ["--set-string", f"{key}={value}"]
    hint = f"kubectl -n {OPERATOR_NAMESPACE} describe pods; kubectl -n {OPERATOR_NAMESPACE} logs "
    with (paths.CACHE / "install.lock").open("w") as lock, phase("install the operator"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        if client.kubeconfig is not None:
            _forget_interrupted(client)
        hint += f"deploy/{OPERATOR_RELEASE}"
        logged(client.helm(*words), paths.LOGS / "install.log", hint=hint)


def _forget_interrupted(client: kubectl.Client) -> None:
    """Drop what a helm that was killed half-way left: helm itself would refuse to go on for ever.

    Nobody else's helm is under way: this is our own cluster, and the caller holds the lock.
    """
    states = "status in (pending-install,pending-upgrade,pending-rollback)"
    selector = f"owner=helm,name={OPERATOR_RELEASE},{states}"
    client.kubectl("delete", "secret", "-n", OPERATOR_NAMESPACE, "-l", selector)
