"""Keys with which an operator signs statements."""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finetune_operator.signing import SigningKey


def new_key() -> SigningKey:
    """Return another key than every other call."""
    return SigningKey(_pem(ec.generate_private_key(ec.SECP256R1())))


def file(folder: Path) -> Path:
    """Return a file in a folder with a key, which is made if there is none."""
    path = folder / "signing.key"
    if not path.exists():
        path.write_bytes(_pem(ec.generate_private_key(ec.SECP256R1())))
    return path


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


KEY = new_key()
CONSTANT_KEY = SigningKey(_pem(ec.derive_private_key(29, ec.SECP256R1())))
"""The key of signatures that are stored with the tests; its signatures are always the same."""
