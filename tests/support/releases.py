"""A registry for releases with a private CA, and the documented commands that install a release."""

import os
import re
import ssl
import subprocess
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
    ApiServer,
    wait_until,
)
from tests.support.ports import free_port

from finetune_api.crd.resources import RESOURCES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "getting-started" / "installation.md"
VERSION = "0.1.0"
HOST = "0.0.0.0"
"""The registry of this machine. Helm before 3.18 uses no TLS with localhost and 127.0.0.1."""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/finetunejobs.finetune.dev"
CRDS = tuple(CRD.replace("finetunejobs", resource.plural) for resource in RESOURCES)
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
    """Docker's registry, as long as the session."""
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


def container(plane: ApiServer) -> dict[str, Any]:
    pod = plane.get(DEPLOYMENT)["spec"]["template"]["spec"]
    found: dict[str, Any] = pod["containers"][0]
    return found
