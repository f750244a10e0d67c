"""A merged model that a job publishes to a hub, downloaded with the client of a user, and verified.

The hub is ``tests/fakes/model_hub.py`` on the node. The operator is installed with this hub after
the training, because the targets of a job are on the present hub. tests/conformance/consumers has
the same checks without a cluster, where ``MODEL_SIGNING`` names the program, too.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tests.e2e.published import another_key, public_key
from tests.e2e.registry import PORT, flipped, node_certificate
from tests.fakes import model_hub
from tests.fakes.model_hub import ModelHub
from tests.support.local_cluster import locks
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import OPERATOR_NAMESPACE, Cluster, namespaces
from tests.support.local_cluster.tuning import MODEL, Tuning, small
from tests.support.trainer import hub_client
from tests.support.trainer.web import Certificate

from cluster import install, kubectl
from cluster.settings import NODE_ADDRESS, SIGNING_KEY_SECRET
from finetune_api.contracts.provenance.attestation import MODEL_SIGNATURE_FILE
from finetune_cli import __main__ as ftj
from finetune_cli.verifying.failures import Code

pytestmark = pytest.mark.exhaustive

LOCKS = {locks.OPERATOR: "alone", locks.GPUS: "shared"}
NAMESPACE, REPO = "e2e-hub", f"{model_hub.OWNER}/small"
PROGRAM = os.environ.get("MODEL_SIGNING", "")
WEIGHTS = "model.safetensors"
PART = 16 << 20
TARGET: Object = {
    "name": "hub",
    "what": "merged",
    "huggingFace": {
        "repo": REPO,
        "tokenSecretRef": {"name": "hub"},
        "caConfigMapRef": {"name": "hub"},
    },
}
SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class Download:
    """The downloaded commit, and the public key of the operator."""

    folder: Path
    key: Path


@pytest.fixture(scope="module")
def download(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Download]:
    """Train, publish to the hub, and download the commit that the status names."""
    folder = tmp_path_factory.mktemp("hub")
    authority, key = node_certificate(folder)
    certificate = Certificate(authority=authority, key=key)
    secret = cluster.kubectl.get("secret", SIGNING_KEY_SECRET, OPERATOR_NAMESPACE)
    address = (NODE_ADDRESS, PORT)
    with namespaces(cluster, NAMESPACE), model_hub.serving(certificate.context(), address) as hub:
        hub.chunk = PART
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name="small")
        tuning.apply(small(serving={"enabled": False}))
        tuning.wait_until("Succeeded", seconds=SECONDS)
        cluster.kubectl.apply(*_access(certificate), namespace=NAMESPACE)
        with _installed_with(hub):
            tuning.change(publish=[TARGET])
            tuning.wait_until("Published", seconds=SECONDS)
            (entry,) = tuning.status()["publish"]
        commit = str(entry["digest"]).removeprefix("sha1:")
        assert entry["reference"] == f"hf://{REPO}@{commit}"
        model = hub_client.download(hub, certificate, REPO, commit, folder / "model")
        yield Download(folder=model, key=public_key(secret, folder))


@pytest.mark.skipif(not PROGRAM, reason="MODEL_SIGNING does not name the program model_signing")
def test_model_signing_verifies_the_download(download: Download, tmp_path: Path) -> None:
    done = _model_signing(download.folder, download.key)
    assert (done.returncode, done.stdout.strip()) == (0, "Verification succeeded"), done.stderr
    assert _model_signing(download.folder, another_key(tmp_path)).returncode != 0
    with flipped(download.folder / WEIGHTS):
        changed = _model_signing(download.folder, download.key)
    assert changed.returncode != 0
    assert f"Hash mismatch for '{WEIGHTS}'" in (changed.stdout + changed.stderr).replace("\\", "")


def test_ftj_verifies_the_download(
    download: Download, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["verify", str(download.folder), "--base", MODEL, "--key"]
    assert ftj.main([*words, str(download.key)]) == 0, capsys.readouterr().err
    assert ftj.main([*words, str(another_key(tmp_path))]) == Code.NOT_SIGNED
    with flipped(download.folder / WEIGHTS):
        assert ftj.main([*words, str(download.key)]) == Code.CHANGED
    assert WEIGHTS in capsys.readouterr().err


@contextmanager
def _installed_with(hub: ModelHub) -> Iterator[None]:
    """Install the operator with another hub; restore the hub of the local cluster afterwards."""
    installed = partial(
        install.install,
        kubectl.local(),
        install.local_images(),
        values=install.VALUES,
        signing_key_secret=SIGNING_KEY_SECRET,
    )
    installed(hub_endpoint=hub.url)
    try:
        yield
    finally:
        installed()


def _access(certificate: Certificate) -> list[Object]:
    """Return the Secret and the ConfigMap with which the job reaches the hub."""
    authority = certificate.authority.read_text(encoding="utf-8")
    metadata = {"name": "hub"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "stringData": {"token": model_hub.TOKEN},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {"ca.crt": authority},
        },
    ]


def _model_signing(folder: Path, key: Path) -> subprocess.CompletedProcess[str]:
    """Verify a folder with the program of OpenSSF."""
    signature = folder / MODEL_SIGNATURE_FILE
    command = [PROGRAM, "verify", "key", str(folder), "--signature", str(signature)]
    return subprocess.run(
        [*command, "--public_key", str(key)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
