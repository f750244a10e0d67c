"""The TLS certificate of ``/metrics``: from a Secret, or self-signed at each start.

cert-manager renews a certificate in its Secret, and the kubelet updates the mounted files. So the
files are read again when they change, without a restart.
"""

import asyncio
import logging
import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

RELOAD_SECONDS = 60.0
VALIDITY = timedelta(days=3650)
NAME = "finetune-operator"

logger = logging.getLogger("finetune_operator.metrics_server")


def server_context(folder: Path | None) -> ssl.SSLContext:
    """Return the TLS settings of the server.

    folder: contains tls.crt and tls.key; None creates a self-signed certificate. Raises OSError if
    the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if folder is not None:
        _load(context, folder)
        return context
    # OpenSSL reads a chain only from files; these exist only for the time of the call.
    with tempfile.TemporaryDirectory() as temporary:
        _write_self_signed(Path(temporary))
        _load(context, Path(temporary))
    return context


async def reload(context: ssl.SSLContext, folder: Path) -> None:
    """Load the files again whenever they have changed, forever."""
    loaded = _version(folder)
    while True:
        await asyncio.sleep(RELOAD_SECONDS)
        found = _version(folder)
        if found == loaded:
            continue
        try:
            _load(context, folder)
        except OSError as error:
            logger.warning("cannot load the renewed certificate in %s: %s", folder, error)
            continue
        loaded = found
        logger.info("loaded the renewed certificate in %s", folder)


def _load(context: ssl.SSLContext, folder: Path) -> None:
    # SSLError is an OSError.
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")


def _version(folder: Path) -> tuple[int, ...]:
    """Return the modification times of the files, 0 for a missing one."""
    found = []
    for name in ("tls.crt", "tls.key"):
        try:
            found.append(os.stat(folder / name).st_mtime_ns)
        except OSError:
            found.append(0)
    return tuple(found)


def _write_self_signed(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
