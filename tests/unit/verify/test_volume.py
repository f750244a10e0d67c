"""Digests of the files on the volume, and the progress of reading them."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from finetune_verify.errors import Mismatch
from finetune_verify.volume import READ_BYTES, Folder, check_digests


def folder(path: Path, *contents: bytes) -> Folder:
    """Write files, and return the folder that lists them."""
    files: list[dict[str, Any]] = []
    for number, content in enumerate(contents):
        (path / str(number)).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        files.append({"name": str(number), "size": len(content), "sha256": digest})
    return Folder(path=path, kind="merged", key="k", digest="d", facts={}, files=tuple(files))


def test_every_byte_is_reported_once(tmp_path: Path) -> None:
    found = folder(tmp_path, b"", b"a" * 3, b"b" * (2 * READ_BYTES + 1))
    counts: list[int] = []
    asyncio.run(check_digests([found], counts.append))
    assert sum(counts) == 2 * READ_BYTES + 4
    assert max(counts) <= READ_BYTES


def test_a_changed_byte_is_a_mismatch(tmp_path: Path) -> None:
    found = folder(tmp_path, b"a" * (READ_BYTES + 1))
    (tmp_path / "0").write_bytes(b"a" * READ_BYTES + b"b")
    with pytest.raises(Mismatch, match="it has changed since it was published"):
        asyncio.run(check_digests([found]))
