"""Translate errors of the volume into trainer errors."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_api.safety.redaction import one_line
from finetune_trainer.errors import Transient, VolumeFull
from finetune_trainer.volume.disk import free_bytes, human

BROKEN = (errno.EIO, errno.EREMOTEIO, errno.EUCLEAN, errno.EBADMSG, errno.ESTALE)
"""Errors of a failing disk (EIO, EREMOTEIO), a damaged file system (EUCLEAN, EBADMSG), or a network
share that lost the file (ESTALE)."""


@contextmanager
def translate_volume_errors(folder: Path, doing: str) -> Iterator[None]:
    """Translate volume errors within this block, whichever library raises them.

    ENOSPC and EDQUOT become VolumeFull; EIO and the others of ``BROKEN`` become Transient, because
    intact files are kept.
    """
    try:
        yield
    except Exception as error:
        if is_full_volume(error):
            raise VolumeFull(
                f"the volume filled up while {doing} ({human(free_bytes(folder))} free): "
                "raise spec.storage.size"
            ) from error
        if is_broken_volume(error):
            raise Transient(
                f"I/O error on the volume while {doing} ({one_line(error)}): "
                "the operator keeps the intact files and retries the stage. If the error persists, "
                "check the disk behind spec.storage.storageClassName"
            ) from error
        raise


def is_full_volume(error: BaseException) -> bool:
    """Report whether an error, or one in its cause chain, is a full disk."""
    # safetensors and pyarrow keep only the text of the operating system's error.
    return _is(error, (errno.ENOSPC, errno.EDQUOT), ("No space left on device", "os error 28"))


def is_broken_volume(error: BaseException) -> bool:
    """Report whether an error, or one in its cause chain, is a failing disk."""
    return _is(error, BROKEN, ("Input/output error", "(os error 5)"))


def _is(error: BaseException, numbers: tuple[int, ...], texts: tuple[str, ...]) -> bool:
    at: BaseException | None = error
    seen: set[int] = set()
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, OSError) and at.errno in numbers:
            return True
        if any(text in str(at) for text in texts):
            return True
        at = at.__cause__ or at.__context__
    return False
