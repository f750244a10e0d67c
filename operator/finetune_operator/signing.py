"""The key with which the operator signs statements about models.

Only ECDSA with the curve P-256 and SHA-256, which cosign and model_signing both accept. Signatures
are deterministic (RFC 6979): a plan that is computed twice is equal. No text about a key contains
the key.
"""

import hashlib
from typing import NoReturn

NEW_KEY = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
"""The command that makes a key."""


class InvalidKey(ValueError):
    """A file has no usable private key; the text says why, without any part of the file."""


def check_public_key(pem: str) -> str:
    """Return a public key in PEM format with which signatures are verified. Raise InvalidKey."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidKey(
            "this is no public key in PEM format. Print that of a private key with the command: "
            "openssl pkey -in KEY -pubout"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidKey(
            "this public key is no elliptic curve key with the curve P-256, the only kind with "
            f"which signatures are verified. Make a private key with the command: {NEW_KEY}"
        )
    return pem


class SigningKey:
    """A private key. ``public_key``: the public key in PEM format."""

    def __init__(self, pem: bytes) -> None:
        """Read an unencrypted private key in PEM format. Raise InvalidKey."""
        # An operator that signs nothing does not load the library.
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # The errors of the library may quote the text.
            raise InvalidKey(
                "the file has no unencrypted private key in PEM format. Make one with the command: "
                f"{NEW_KEY}"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(
            key.curve, ec.SECP256R1
        ):
            raise InvalidKey(
                "the private key is no elliptic curve key with the curve P-256, the only kind that "
                f"both cosign and model_signing verify. Make one with the command: {NEW_KEY}"
            )
        self._key = key
        self.public_key = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the public key in PEM format, the hint in Sigstore bundles."""
        return hashlib.sha256(self.public_key).hexdigest()

    def sign(self, data: bytes) -> bytes:
        """Return the signature of some bytes, always the same for the same bytes."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        return self._key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))

    def __repr__(self) -> str:
        return f"SigningKey({self.id[:8]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SigningKey) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key is neither copied to another process nor stored")

    def __copy__(self) -> "SigningKey":
        return self

    def __deepcopy__(self, memo: object) -> "SigningKey":
        return self
