"""Keys with which an operator signs statements."""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finetune_operator.signing import SigningKey


def new_key() -> SigningKey:
    """Return another key than every other call."""
    return _signing_key(ec.generate_private_key(ec.SECP256R1()))


def _signing_key(key: ec.EllipticCurvePrivateKey) -> SigningKey:
    return SigningKey(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


KEY = new_key()
CONSTANT_KEY = _signing_key(ec.derive_private_key(29, ec.SECP256R1()))
"""The key of signatures that are stored with the tests; its signatures are always the same."""
