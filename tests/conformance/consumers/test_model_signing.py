"""model_signing (OpenSSF) verifies published folders, and ``ftj verify`` reads its signatures.

``MODEL_SIGNING`` names the program.
"""

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes import model_hub, object_store
from tests.support.published_folder import Published
from tests.support.signing_keys import CONSTANT_KEY
from tests.support.trainer import hub_client
from tests.support.trainer.hub_target import REPO, Signing, hub_target
from tests.support.trainer.publishing import Volume, run
from tests.support.trainer.statements import statements_about
from tests.support.trainer.web import Certificate

from cluster import paths
from finetune_api.contracts.provenance.attestation import (
    MANIFEST,
    MODEL_SIGNATURE_FILE,
    PROVENANCE_FILE,
)
from finetune_cli import __main__ as ftj
from finetune_cli.verifying.failures import Code

pytestmark = pytest.mark.filterwarnings(
    # Of httpx, about the client of the hub.
    "default:Use 'content=:DeprecationWarning"
)

GOLDEN = paths.REPO / "tests/unit/operator/provenance/golden/model.sig"
PROGRAM = os.environ.get("MODEL_SIGNING", "model_signing")


def model_signing(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published folder without a statement."""
    (tmp_path / "model").mkdir()
    return Published(tmp_path / "model", ()).folder


@pytest.fixture
def key_pair(tmp_path: Path) -> tuple[Path, Path]:
    """A private key, and the public one."""
    private, public = tmp_path / "own.key", tmp_path / "own.pub"
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (None, 0),
        ("flip", Code.CHANGED),
        ("delete", Code.MISSING),
        ("add", Code.EXTRA),
        ("key", Code.NOT_SIGNED),
    ],
)
def test_ftj_verifies_what_model_signing_has_signed(
    folder: Path,
    key_pair: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    change: str | None,
    code: int,
) -> None:
    private, public = key_pair
    signature = folder / "model.sig"
    done = model_signing("sign", "key", folder, "--private_key", private, "--signature", signature)
    assert done.returncode == 0, done.stderr
    match change:
        case "flip":
            (folder / "config.json").write_bytes(b"{}")
        case "delete":
            (folder / "config.json").unlink()
        case "add":
            (folder / "extra.bin").write_bytes(b"")
        case "key":
            public = folder.parent / "signing.pub"
    assert ftj.main(["verify", str(folder), "--key", str(public)]) == code, capsys.readouterr().err


def verify(folder: Path, signature: Path, key: Path) -> subprocess.CompletedProcess[str]:
    return model_signing("verify", "key", folder, "--signature", signature, "--public_key", key)


@pytest.fixture(params=["bucket", "hub"])
def published(
    request: pytest.FixtureRequest, volume: Volume, certificate: Certificate, tmp_path: Path
) -> Path:
    """A download of a merged model with the statements of the operator."""
    if request.param == "hub":
        return downloaded(volume, certificate, tmp_path / "model")
    environment = {
        "PUBLISH_MAIN_AWS_ACCESS_KEY_ID": object_store.KEY,
        "PUBLISH_MAIN_AWS_SECRET_ACCESS_KEY": "a-secret-key",
    }
    with object_store.serving(certificate.context()) as store:
        place = {"uri": "s3://models/team", "endpoint": store.url}
        target = volume.target("merged", s3=place | {"ca": str(certificate.authority)})
        done = run(volume, target, environment=environment)
        assert done.error is None, done.failure
        attested = run(volume, target | statements_about(done), environment=environment)
        assert attested.error is None, attested.failure
        for key, (data, _) in store.objects.items():
            (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / key).write_bytes(data)
    (folder,) = (tmp_path / "team").iterdir()
    return folder


def downloaded(volume: Volume, certificate: Certificate, folder: Path) -> Path:
    """Publish to a hub, and download the commit with the client of a user."""
    with model_hub.serving(certificate.context()) as hub:
        done = Signing(volume, hub, hub_target(volume, hub, certificate)).attest()
        assert done.error is None, done.failure
        commit = str(done.only.digest).removeprefix("sha1:")
        return hub_client.download(hub, certificate, REPO, commit, folder)


WEIGHTS = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "Verification succeeded"),
        ("provenance", "Verification succeeded"),
        ("flip", f"Hash mismatch for '{WEIGHTS}'"),
        ("delete", "Missing files"),
        ("add", "Extra files"),
        ("manifest", "Hash mismatch for 'manifest.json'"),
        ("key", "Verification failed"),
    ],
)
def test_model_signing_verifies_a_published_folder(
    published: Path, keys: tuple[Path, Path], change: str | None, said: str
) -> None:
    own, other = keys
    match change:
        case "provenance":
            # model_signing ignores it; without it, the folder is still signed.
            (published / PROVENANCE_FILE).unlink()
        case "flip":
            data = bytearray((published / WEIGHTS).read_bytes())
            data[1000] ^= 1
            (published / WEIGHTS).write_bytes(data)
        case "delete":
            (published / WEIGHTS).unlink()
        case "add":
            (published / "extra.py").write_text("")
        case "manifest":
            path = published / MANIFEST
            path.write_bytes(path.read_bytes() + b" ")
    done = verify(published, published / MODEL_SIGNATURE_FILE, other if change == "key" else own)
    assert (done.returncode == 0) is (change in (None, "provenance")), done.stderr
    # The program quotes its own list of differences.
    assert said in (done.stdout + done.stderr).replace("\\", "")


def test_model_signing_verifies_the_stored_signature(tmp_path: Path) -> None:
    """The one that every release must make."""
    (tmp_path / "model").mkdir()
    made = Published(tmp_path / "model", ())
    key = tmp_path / "constant.pub"
    key.write_bytes(CONSTANT_KEY.public_key)
    done = verify(made.folder, GOLDEN, key)
    assert done.returncode == 0, done.stderr


def test_model_signing_verifies_the_signatures_of_other_tests(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    made = Published(tmp_path / "model", (MODEL_SIGNATURE_FILE,))
    signature = made.folder / MODEL_SIGNATURE_FILE
    done = verify(made.folder, signature, made.key)
    assert done.returncode == 0, done.stderr
    (made.folder / "config.json").write_bytes(b"{}")
    assert verify(made.folder, signature, made.key).returncode != 0
