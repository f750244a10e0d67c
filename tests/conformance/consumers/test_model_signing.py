"""model_signing (OpenSSF) and ``ftj verify`` read the signatures of each other.

``MODEL_SIGNING`` names the program.
"""

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.published_folder import Published

from finetune_api.contracts.attestation import MODEL_SIGNATURE_FILE
from finetune_cli import __main__ as ftj
from finetune_cli.verifying.failures import Code

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
def keys(tmp_path: Path) -> tuple[Path, Path]:
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
    keys: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    change: str | None,
    code: int,
) -> None:
    private, public = keys
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


def test_model_signing_verifies_the_signatures_of_other_tests(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    made = Published(tmp_path / "model", (MODEL_SIGNATURE_FILE,))
    files = (made.folder, "--signature", made.folder / MODEL_SIGNATURE_FILE)
    words = ("verify", "key", *map(str, files), "--public_key", str(made.key))
    done = model_signing(*words)
    assert done.returncode == 0, done.stderr
    (made.folder / "config.json").write_bytes(b"{}")
    assert model_signing(*words).returncode != 0
