"""Certificate authorities that a process trusts in addition to those of its image.

Each library has its own store: httpx reads the certificates of certifi, ``ssl`` those of the
system, botocore its own. ``SSL_CERT_FILE`` replaces the store of the first two, so it names a file
with the certificates of certifi and the additional ones; botocore gets the path of such a file.
"""

import os
import ssl
import tempfile
from pathlib import Path

from finetune_trainer.errors import InvalidSpec

VARIABLE = "SSL_CERT_FILE"


def add(certificates: str, *, field: str) -> None:
    """Trust more certificates (PEM) in all connections that are opened from now on.

    field: their origin, for the error. Raise InvalidSpec if there are none.
    """
    os.environ[VARIABLE] = str(bundle(certificates, field=field))


def bundle(certificates: str, *, field: str) -> Path:
    """Return a new file with the certificates that are trusted now, and these. Errors as in add."""
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificates, field)
    present = Path(os.environ.get(VARIABLE) or _of_the_image()).read_text(encoding="utf-8")
    with tempfile.NamedTemporaryFile("w", suffix=".pem", encoding="utf-8", delete=False) as file:
        file.write(f"{present.rstrip()}\n{certificates.strip()}\n")
    return Path(file.name)


def read(file: Path, *, field: str) -> str:
    """Return the text of a file with certificates. Raise InvalidSpec if it is not text."""
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise InvalidSpec(f"{field} cannot be read ({error}): correct the ConfigMap") from error


def load(context: ssl.SSLContext, file: Path, *, field: str) -> None:
    """Let a context trust the certificates in a file, too. Raise InvalidSpec if there are none."""
    _load(context, read(file, field=field), field)


def _load(context: ssl.SSLContext, certificates: str, field: str) -> None:
    try:
        context.load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidSpec(f"{field} contains no PEM certificates ({error}): correct it") from error


def _of_the_image() -> str:
    # Only needed with additional certificates, and newer HTTP clients do not install it.
    import certifi

    return certifi.where()
