"""A release is pushed to a registry and installed with the commands in the documentation.

The registry is a real one with a private CA. The images are not built here: the chart and the
manifest name them, and other tests build them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from tests.support.api_server import controlplane
from tests.support.api_server.controlplane import ControlPlane, has, wait_until
from tests.support.releases import (
    CRD,
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


@contextmanager
def empty_cluster(folder: Path) -> Iterator[ControlPlane]:
    """An API server of its own, without CRDs: a release installs objects for the whole cluster."""
    with controlplane.Servers.prepare(folder).running() as plane:
        yield plane


@pytest.fixture(scope="module")
def released(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Push a release; return its folder."""
    output = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "dev/release", VERSION, f"--registry={registry.location}"]
    command += ["--only=chart", f"--output={output}"]
    environment = {**os.environ, "SSL_CERT_FILE": str(registry.authority), "NO_PROXY": HOST}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=900)
    return output / VERSION


def test_release_is_installed_with_the_commands_of_the_page(
    registry: Registry, released: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with_helm, with_kubectl = commands()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=released, check=True)
    with empty_cluster(tmp_path_factory.mktemp("helm")) as plane:
        printed = sh(with_helm, plane, registry, released)
        installed = container(plane)
        assert installed["image"] == f"{registry.location}/finetune-operator:{VERSION}"
        # The second command of a new user: Helm prints it, and the release has the same file.
        wait_until("FineTuneJobs are served", lambda: has(plane, JOBS))
        sh(first_job(printed), plane, registry, released)
        job = plane.get(f"{JOBS}/velmora")
        sh("kubectl apply -f first-job.yaml", plane, registry, released)
        applied = plane.get(f"{JOBS}/velmora")
        assert applied["metadata"]["resourceVersion"] == job["metadata"]["resourceVersion"]
    with empty_cluster(tmp_path_factory.mktemp("kubectl")) as plane:
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
