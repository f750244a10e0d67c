"""The TLS certificate of ``/metrics``: from a Secret, or self-signed at each start.

cert-manager renews a certificate in its Secret, and the kubelet updates the mounted files. So the
files are read again when they change, without a restart.
"""

import asyncio
import logging
import os
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

RELOAD_SECONDS = 60.0
SELF_SIGNED = Path(__file__).with_name("self_signed.py")

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
        # In a process of its own: the library would stay in memory and need 10 MiB.
        subprocess.run([sys.executable, "-I", SELF_SIGNED, temporary], check=True)
        _load(context, Path(temporary))
    return context


async def reload(context: ssl.SSLContext, folder: Path) -> None:
    """Load the files again whenever they have changed, forever."""
    loaded = _version(folder)
    while True:
        await asyncio.sleep(RELOAD_SECONDS)
        present = _version(folder)
        if present == loaded:
            continue
        try:
            _load(context, folder)
        except OSError as error:
            logger.warning("cannot load the renewed certificate in %s: %s", folder, error)
            continue
        loaded = present
        logger.info("loaded the renewed certificate in %s", folder)


def _load(context: ssl.SSLContext, folder: Path) -> None:
    # SSLError is an OSError.
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")


def _version(folder: Path) -> tuple[int, ...]:
    """Return the modification times of the files, 0 for a missing one."""
    times = []
    for name in ("tls.crt", "tls.key"):
        try:
            times.append(os.stat(folder / name).st_mtime_ns)
        except OSError:
            times.append(0)
    return tuple(times)
