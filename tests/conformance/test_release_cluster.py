"""A release is installed on the local cluster, and the first job runs, without a clone.

A new user needs the two commands of the documentation. The values of this cluster (the hub, vLLM
for CPUs) are set by a third one.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conformance import local_cluster
from tests.conformance.release import Release
from tests.support.api_server.controlplane import ApiServer
from tests.support.local_cluster import locks
from tests.support.local_cluster.kubectl import Kubectl
from tests.support.local_cluster.target import OPERATOR, OPERATOR_NAMESPACE, dev_cluster
from tests.support.releases import (
    JOBS,
    VERSION,
    Registry,
    commands,
    container,
    first_job,
    sh,
)

from cluster import install
from cluster.components import containers

CRDS = (
    "finetunejobs.finetune.dev",
    "finetuneprofiles.finetune.dev",
    "finetuneusages.finetune.dev",
    "finetunebudgets.finetune.dev",
    "finetuneendpoints.finetune.dev",
)
SECONDS = 1500

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def node(
    registry: Registry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ApiServer]:
    """The local cluster without the operator; its node trusts the registry."""
    with locks.held({locks.OPERATOR: "alone", locks.GPUS: "alone"}):
        for command in ("up", "hub"):
            dev_cluster(command)
        programs = Path(dev_cluster("assets").splitlines()[-1])
        kubeconfig = Path(dev_cluster("kubeconfig").splitlines()[-1])
        kubectl = Kubectl(program=programs / "kubectl", kubeconfig=kubeconfig)
        server = local_cluster.api_server(kubectl, tmp_path_factory.mktemp("administrator"))
        _remove_operator(kubectl, server, registry)
        with _trusted(registry):
            yield server
        _remove_operator(kubectl, server, registry)


@contextmanager
def _trusted(registry: Registry) -> Iterator[None]:
    """Let containerd of the local cluster pull from the registry during the block."""
    host = registry.location.partition("/")[0]
    folder = containers.REGISTRY_HOSTS / host
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(
        f'server = "https://{host}"\n\n[host."https://{host}"]\n'
        f'  capabilities = ["pull", "resolve"]\n  ca = "{registry.authority}"\n'
    )
    try:
        yield
    finally:
        shutil.rmtree(folder)


def _remove_operator(kubectl: Kubectl, server: ApiServer, registry: Registry) -> None:
    """Delete all jobs, then the operator and everything that the chart keeps."""
    # Fails if the kind does not exist.
    kubectl.attempt("delete", "ftj", "--all", "--all-namespaces", seconds=180)
    options = f"--namespace {OPERATOR_NAMESPACE} --ignore-not-found --wait"
    sh(f"helm uninstall {OPERATOR} {options}", server, registry, registry.authority.parent)
    kubectl.run("delete", "crd", *CRDS, "--ignore-not-found", seconds=180)
    kubectl.run("delete", "namespace", OPERATOR_NAMESPACE, "--ignore-not-found", seconds=180)


def test_new_user_installs_the_release_and_runs_the_first_job(
    release: Release,
    node: ApiServer,
    registry: Registry,
    tmp_path: Path,
) -> None:
    with_helm, _ = commands()
    printed = sh(with_helm, node, registry, tmp_path)
    rollout = "kubectl -n finetune-system rollout status deployment/finetune-operator"
    sh(rollout, node, registry, tmp_path)
    digests = release.digests()
    image = f"{registry.location}/finetune-operator:{VERSION}"
    assert container(node)["image"] == image
    pods = node.get(f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods")["items"]
    ran = {each["status"]["containerStatuses"][0]["imageID"] for each in pods}
    assert {each.rpartition("@")[2] for each in ran} == {digests[image]}
    # What a cluster with GPUs and internet access does not need: the hub and vLLM for CPUs.
    serving = install.split_image(dev_cluster("images", "vllm-cpu").splitlines()[-1])
    words = [f"--set-string=serving.image.{key}={value}" for key, value in serving.items()]
    upgrade = f"helm upgrade {OPERATOR} oci://$REGISTRY/charts/{OPERATOR} --version {VERSION}"
    upgrade += f" -n {OPERATOR_NAMESPACE} --reset-then-reuse-values -f {install.VALUES}"
    sh(f"{upgrade} {' '.join(words)}", node, registry, tmp_path)
    sh(rollout, node, registry, tmp_path)
    sh(first_job(printed), node, registry, tmp_path)
    finished = "kubectl wait --for=condition=Finished ftj/velmora"
    sh(f"{finished} --timeout={SECONDS}s", node, registry, tmp_path, seconds=SECONDS + 10)
    # The operator scrapes the outcome after the pod became ready.
    verified = "kubectl wait --for=jsonpath='{.status.verification.outcome}'=Verified ftj/velmora"
    sh(f"{verified} --timeout=240s", node, registry, tmp_path)
    status = node.get(f"{JOBS}/velmora")["status"]
    (ready,) = (each for each in status["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Serving"), ready
    (revision,) = status["revisions"]
    trainer = digests[f"{registry.location}/finetune-trainer:{VERSION}"]
    stages = {each["stage"]: each["imageID"] for each in revision["stages"]}
    for stage in ("prepare", "train", "merge"):
        assert stages[stage].endswith(f"@{trainer}"), stages
