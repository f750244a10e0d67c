"""Install the operator with its Helm chart, on the local cluster or in the current context."""

from __future__ import annotations

import dataclasses
import fcntl
from pathlib import Path

from cluster import kubectl, paths
from cluster.artifacts import base_image, binaries, images
from cluster.components import hub, prepull, signing_key
from cluster.errors import ClusterError
from cluster.phases import phase, side_by_side
from cluster.settings import OPERATOR_NAMESPACE, OPERATOR_RELEASE, SIGNING_KEY_SECRET
from cluster.shell import logged

CHART = paths.REPO / "charts" / "finetune-operator"
VALUES = paths.SOURCES / "values.yaml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """References of the three images of an installation."""

    operator: str
    trainer: str
    serving: str


def local_images() -> Images:
    """Build the images of this repository and push them to the local registry."""
    built = images.ensure(*images.ALL.values())
    return Images(
        operator=built[images.OPERATOR.name],
        trainer=built[images.TRAINER.name],
        serving=built[images.VLLM_CPU.name],
    )


def build_everything() -> Images:
    """Build the missing programs and images, and the content of the hub; return the images."""
    built: list[Images] = []

    def images_and_content() -> None:
        base_image.ensure()
        hub.ensure_content()
        built.append(local_images())

    # In parallel: compiling uses the cores, images mostly use disk and network.
    with phase("build missing programs and images"):
        side_by_side(lambda: binaries.ensure(*binaries.CLUSTER, binaries.HELM), images_and_content)
    return built[0]


def split_image(image: str) -> dict[str, str]:
    """Return the chart values of an image reference: repository, tag and digest."""
    name, _, digest = image.partition("@")
    head, slash, last = name.rpartition("/")
    base, _, tag = last.partition(":")
    if not (tag or digest):
        raise ClusterError(
            f"image {image} has neither a tag nor a digest", hint=f"append one, as in {image}:0.1.0"
        )
    return {"repository": f"{head}{slash}{base}", "tag": tag, "digest": digest}


def install_with_hub(built: Images) -> None:
    """Install on the local cluster, and start the hub in parallel."""
    signing_key.ensure()

    def operator() -> None:
        install(kubectl.local(), built, values=VALUES, signing_key_secret=SIGNING_KEY_SECRET)

    side_by_side(hub.start, operator)


def install(
    client: kubectl.Client,
    built: Images,
    *,
    values: Path | None,
    hub_endpoint: str = "",
    chart: Path = CHART,
    signing_key_secret: str = "",
) -> None:
    """Install or upgrade with a file of chart values; return when the operator is ready."""
    if client.kubeconfig is not None:
        prepull.start(client, built.trainer, built.serving)
    settings = {
        f"{path}.{key}": value
        for path, image in (
            ("image", built.operator),
            ("trainer.image", built.trainer),
            ("serving.image", built.serving),
        )
        for key, value in split_image(image).items()
    }
    if hub_endpoint:
        settings["hub.endpoint"] = hub_endpoint
    if signing_key_secret:
        settings["provenance.signingKeySecret"] = signing_key_secret
    words = ["upgrade", "--install", OPERATOR_RELEASE, str(chart)]
    words += ["--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--wait", "--timeout=3m"]
    if values is not None:
        words += ["--values", str(values)]
    for key, value in settings.items():
        words += ["--set-string", f"{key}={value}"]
    namespace = f"kubectl -n {OPERATOR_NAMESPACE}"
    hint = f"find the cause with `{namespace} describe pods` and "
    hint += f"`{namespace} logs deploy/{OPERATOR_RELEASE}`"
    with (paths.CACHE / "install.lock").open("w") as lock, phase("install the operator"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        if client.kubeconfig is not None:
            _delete_interrupted_release(client)
        logged(client.helm(*words), paths.LOGS / "install.log", hint=hint)


def _delete_interrupted_release(client: kubectl.Client) -> None:
    """Delete the pending release of an interrupted helm, which would block every later upgrade.

    No other helm is running: this is the local cluster, and the caller holds the lock.
    """
    states = "status in (pending-install,pending-upgrade,pending-rollback)"
    selector = f"owner=helm,name={OPERATOR_RELEASE},{states}"
    client.kubectl("delete", "secret", "-n", OPERATOR_NAMESPACE, "-l", selector)
