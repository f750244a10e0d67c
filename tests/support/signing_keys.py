"""Keys with which an operator signs statements."""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finetune_operator.signing import SigningKey


def new_key() -> SigningKey:
    """Return another key than every other call."""
    return SigningKey(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


KEY = new_key()
