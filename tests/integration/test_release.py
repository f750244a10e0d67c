"""A release is pushed to a registry and installed with the commands in the documentation.

The registry is a real one with a private CA. The images are not built here: the chart and the
manifest name them, and other tests build them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.support.api_server import controlplane
from tests.support.api_server.controlplane import ControlPlane, has, wait_until
from tests.support.releases import (
    CRD,
    CRDS,
    HOST,
    JOBS,
    ROOT,
    VERSION,
    Registry,
    commands,
    container,
    first_job,
    sh,
)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A separate API server, since a release installs objects for the whole cluster."""
    with controlplane.control_plane(tmp_path_factory.mktemp("plane")) as found:
        yield found


@pytest.fixture(scope="module")
def released(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Push a release; return its folder."""
    output = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "dev/release", VERSION, f"--registry={registry.location}"]
    command += ["--only=chart", f"--output={output}"]
    environment = {**os.environ, "SSL_CERT_FILE": str(registry.authority), "NO_PROXY": HOST}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=900)
    return output / VERSION


def remove_crd(plane: ControlPlane) -> None:
    for crd in CRDS:
        plane.delete(crd)
    wait_until("the CRDs are deleted", lambda: not any(has(plane, crd) for crd in CRDS))


def test_release_is_installed_with_the_commands_of_the_page(
    registry: Registry, plane: ControlPlane, released: Path
) -> None:
    with_helm, with_kubectl = commands()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=released, check=True)
    remove_crd(plane)
    printed = sh(with_helm, plane, registry, released)
    installed = container(plane)
    assert installed["image"] == f"{registry.location}/finetune-operator:{VERSION}"
    # The second command of a new user: Helm prints it, and the release has the same file.
    wait_until("FineTuneJobs are served", lambda: has(plane, JOBS))
    sh(first_job(printed), plane, registry, released)
    job = plane.get(f"{JOBS}/velmora")
    sh("kubectl apply -f first-job.yaml", plane, registry, released)
    assert (
        plane.get(f"{JOBS}/velmora")["metadata"]["resourceVersion"]
        == job["metadata"]["resourceVersion"]
    )
    sh(
        "helm uninstall finetune-operator --namespace finetune-system"
        " && kubectl delete namespace finetune-system --wait=false",
        plane,
        registry,
        released,
    )
    # No controller of this API server finishes the deletion of a namespace.
    finish = "kubectl get namespace finetune-system -o json | sed 's/\"kubernetes\"//' |"
    finish += " kubectl replace --raw /api/v1/namespaces/finetune-system/finalize -f - >/dev/null"
    sh(finish, plane, registry, released)
    remove_crd(plane)
    sh(with_kubectl, plane, registry, released)
    assert container(plane) == installed
    assert plane.get(CRD)["spec"]["group"] == "finetune.dev"


def test_instructions_in_the_chart_name_the_location(registry: Registry, released: Path) -> None:
    package = released / f"finetune-operator-{VERSION}.tgz"
    chart = {
        name: subprocess.run(
            ["tar", "-xzOf", str(package), f"finetune-operator/{name}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for name in ("README.md", "Chart.yaml", "values.yaml")
    }
    command = f"helm install finetune-operator oci://{registry.location}/charts/finetune-operator"
    assert command in chart["README.md"]
    assert "$REGISTRY" not in chart["README.md"]
    annotation = yaml.safe_load(chart["Chart.yaml"])["annotations"]["artifacthub.io/images"]
    assert [each["image"] for each in yaml.safe_load(annotation)] == [
        f"{registry.location}/finetune-operator:{VERSION}",
        f"{registry.location}/finetune-trainer:{VERSION}",
        f"{registry.location}/finetune-trainer:{VERSION}-unsloth",
    ]
    values = yaml.safe_load(chart["values.yaml"])
    assert values["trainer"]["image"]["repository"] == f"{registry.location}/finetune-trainer"
