"""Errors of the volume, mapped to outcomes."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_trainer.errors import Transient, VolumeFull
from finetune_trainer.runtime.disk import free_bytes, human

BROKEN = (errno.EIO, errno.EREMOTEIO, errno.EUCLEAN, errno.EBADMSG, errno.ESTALE)
"""What is answered by a disk that fails, a file system that is damaged (EUCLEAN, EBADMSG), and a
share whose server has lost the file (ESTALE)."""


@contextmanager
def volume_errors_named(folder: Path, doing: str) -> Iterator[None]:
    """Turn what a volume refuses, whatever library it comes through, into an outcome.

    ENOSPC and EDQUOT are VolumeFull, EIO and its like are Transient: what is whole is still there.
    """
    try:
        yield
    except Exception as error:
        if is_full_volume(error):
            raise VolumeFull(
                f"the volume filled up while {doing}: {human(free_bytes(folder))} are left; "
                "raise spec.storage.size"
            ) from error
        if is_broken_volume(error):
            raise Transient(
                f"the volume failed while {doing} ({' '.join(str(error).split())[:200]}): what is "
                "whole is kept and gone on from; if it fails again, have the disk behind "
                "spec.storage.storageClassName looked at"
            ) from error
        raise


def is_full_volume(error: BaseException) -> bool:
    """Tell whether an error, or one that it was raised from, is a full disk."""
    # safetensors and pyarrow wrap the operating system's error into a text of their own.
    return _is(error, (errno.ENOSPC, errno.EDQUOT), ("No space left on device", "os error 28"))


def is_broken_volume(error: BaseException) -> bool:
    """Tell whether an error, or one that it was raised from, is a disk's that failed."""
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
