"""Reads manifests and layers from a registry, and continues after interruptions."""

import hashlib
import time
from collections.abc import Generator, Iterator

from finetune_trainer.runtime.log import log
from finetune_trainer.sources import transfer
from finetune_trainer.sources.oci.image_manifest import Layer
from finetune_trainer.sources.oci.registry import Client, read_up_to
from finetune_trainer.sources.oci.registry_errors import Interrupted, RegistryError

LONGEST_PAUSE = 60.0
"""Seconds; servers may ask for any ``Retry-After``."""


def manifest(client: Client, name: str, types: tuple[str, ...], *, limit: int) -> bytes | None:
    """Return a manifest; None if it does not exist. Raise Interrupted after several tries.

    name: tag or digest. types: acceptable media types. limit: most bytes.
    """
    return document(client, f"manifests/{name}", types, limit=limit)


def document(client: Client, path: str, types: tuple[str, ...], *, limit: int) -> bytes | None:
    """Return a small document as ``manifest`` does. path: below the repository."""
    tries = 0
    while True:
        try:
            with client.request(
                "GET",
                path,
                headers={"Accept": ", ".join(types)},
                accepted=(200, 404),
            ) as response:
                return None if response.status_code == 404 else read_up_to(response, limit)
        except Interrupted as error:
            _wait(error, tries)
            tries += 1


def layer(client: Client, wanted: Layer) -> Iterator[bytes]:
    """Yield a layer. Raise RegistryError at its end if it has another digest.

    Raise Interrupted after several tries without progress.
    """
    digest, at, tries = hashlib.sha256(), 0, 0
    while at < wanted.size:
        before = at
        try:
            for chunk in part(client, wanted, at, wanted.size):
                at += len(chunk)
                digest.update(chunk)
                yield chunk
        except Interrupted as error:
            tries = 0 if at > before else tries
            _wait(error, tries)
            tries += 1
    if f"sha256:{digest.hexdigest()}" != wanted.digest:
        raise RegistryError(
            f"the registry returns other bytes for the layer {wanted.digest}: its storage is "
            "damaged, so push the image again"
        )


def part(client: Client, wanted: Layer, first: int, end: int) -> Generator[bytes, None, None]:
    """Yield the bytes of a layer from ``first`` to before ``end``. Raise Interrupted."""
    left = end - first
    if not left:
        return
    headers = {} if (first, end) == (0, wanted.size) else {"Range": f"bytes={first}-{end - 1}"}
    url = f"blobs/{wanted.digest}"
    with client.request("GET", url, headers=headers, accepted=(200, 206)) as response:
        begins = response.headers.get("Content-Range", "").startswith(f"bytes {first}-")
        if response.status_code == 206 and not begins:
            raise Interrupted(f"the registry sent no range from byte {first}")
        # Without support of ranges, the registry sends the bytes before as well.
        skipped = first if response.status_code == 200 else 0
        for chunk in response.iter_raw():
            new = chunk[skipped:][:left]
            skipped = max(0, skipped - len(chunk))
            left -= len(new)
            if new:
                yield new
            if not left:
                return
    raise Interrupted(f"{left} of {end - first} bytes are missing")


def _wait(error: Interrupted, tries: int) -> None:
    """Wait before the next try. Raise the error if there have been too many."""
    if tries >= len(transfer.PAUSES):
        raise error
    log(f"reading from the registry was interrupted ({error}): trying again")
    time.sleep(min(max(transfer.PAUSES[tries], error.after or 0.0), LONGEST_PAUSE))
