"""Keys with which an operator signs statements."""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finetune_operator.signing import SigningKey


def _pem() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def new_key() -> SigningKey:
    """Return another key than every other call."""
    return SigningKey(_pem())


def file(folder: Path) -> Path:
    """Return a file in a folder with a key, which is made if there is none."""
    path = folder / "signing.key"
    if not path.exists():
        path.write_bytes(_pem())
    return path


KEY = new_key()
