"""A release is pushed to a registry and installed with the commands in the documentation.

The registry is a real one with a private CA. The images are not built here: the chart and the
manifest name them, and other tests build them.
"""

import os
import re
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.api_server import controlplane
from tests.support.api_server.controlplane import (
    REQUEST_SECONDS,
    ApiError,
    ApiServer,
    ControlPlane,
    has,
    wait_until,
)
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "getting-started" / "installation.md"
VERSION = "0.1.0"
HOST = "0.0.0.0"
"""The registry of this machine. Helm before 3.18 uses no TLS with localhost and 127.0.0.1."""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/finetunejobs.finetune.dev"
JOBS = "/apis/finetune.dev/v1alpha1/namespaces/default/finetunejobs"
DEPLOYMENT = "/apis/apps/v1/namespaces/finetune-system/deployments/finetune-operator"


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A registry with TLS; ``location`` is the registry of the release."""

    location: str
    authority: Path
    content: Path

    def digest(self, reference: str) -> str:
        """Return the digest of a tag."""
        name, _, tag = reference.removeprefix(f"{self.location.partition('/')[0]}/").rpartition(":")
        url = f"https://{self.location.partition('/')[0]}/v2/{name}/manifests/{tag}"
        request = urllib.request.Request(url, method="HEAD", headers={"Accept": MANIFEST})
        with opener(self.authority).open(request) as answer:
            return str(answer.headers["Docker-Content-Digest"])


def opener(authority: Path) -> urllib.request.OpenerDirector:
    """Return a client that trusts an authority, and uses no proxy."""
    https = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=authority))
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), https)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    content = folder / "content"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=test", "-keyout", str(folder / "tls.key")]
    command += ["-addext", f"subjectAltName=IP:{HOST}", "-out", str(folder / "ca.crt")]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    tls = {"certificate": str(folder / "ca.crt"), "key": str(folder / "tls.key")}
    settings = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(content)}},
        "http": {"addr": f"127.0.0.1:{port}", "tls": tls},
    }
    (folder / "config.yml").write_text(yaml.safe_dump(settings))
    direct = opener(folder / "ca.crt")

    def answers() -> bool:
        try:
            with direct.open(f"https://{HOST}:{port}/v2/", timeout=REQUEST_SECONDS):
                return True
        except OSError:
            return False

    serve: list[str | Path] = ["docker-registry", "serve", folder / "config.yml"]
    with controlplane.process(serve, folder / "log"):
        wait_until("the registry answers", answers)
        yield Registry(location=f"{HOST}:{port}/team", authority=folder / "ca.crt", content=content)


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


def commands() -> list[str]:
    """Return the blocks of commands on the page that install a release."""
    text = PAGE.read_text()
    chapter = text[text.index("\n## Install\n") : text.index("\n### Build the images")]
    return re.findall(r"^```\n(.*?)^```", chapter, re.M | re.S)


def first_job(printed: str) -> str:
    """Return the command that runs the first job, from the output of ``helm install``."""
    found = re.search(r"^kubectl apply -f - <<'EOF'\n.*?^EOF\n", printed, re.M | re.S)
    assert found is not None, printed
    return found[0]


def sh(
    command: str, plane: ApiServer, registry: Registry, folder: Path, *, seconds: float = 900
) -> str:
    """Run a command of a user in the folder of a release; return its output."""
    environment = {
        "PATH": f"{plane.assets}:{os.environ['PATH']}",
        "HOME": str(folder),
        "KUBECONFIG": str(plane.kubeconfig),
        "SSL_CERT_FILE": str(registry.authority),
        "REGISTRY": registry.location,
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=seconds,
    ).stdout


def remove_crd(plane: ControlPlane) -> None:
    plane.delete(CRD)

    def gone() -> bool:
        try:
            plane.get(CRD)
        except ApiError as error:
            return error.status == 404
        return False

    wait_until("the CRD is deleted", gone)


def container(plane: ApiServer) -> dict[str, Any]:
    pod = plane.get(DEPLOYMENT)["spec"]["template"]["spec"]
    found: dict[str, Any] = pod["containers"][0]
    return found


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
