"""Digests of the files on the volume, and the progress of reading them."""

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_verify import volume
from finetune_verify.errors import Mismatch
from finetune_verify.volume import MANIFEST, READ_BYTES, Folder, check_digests, require_unchanged


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


def replace(path: Path, content: bytes) -> None:
    """Put another file in place, with the time of modification of the present one."""
    facts = path.stat()
    other = path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.rename(path)


def overwrite(path: Path, content: bytes) -> None:
    facts = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize("change", [replace, overwrite])
def test_a_file_that_is_changed_after_its_digest_was_computed_is_a_mismatch(
    tmp_path: Path, change: Callable[[Path, bytes], None]
) -> None:
    found = folder(tmp_path, b"a" * READ_BYTES)
    checked = asyncio.run(check_digests([found]))
    asyncio.run(require_unchanged([found], checked))
    change(tmp_path / "0", b"b" * READ_BYTES)
    with pytest.raises(Mismatch, match="it has changed since it was published"):
        asyncio.run(require_unchanged([found], checked))


def test_the_same_content_with_another_owner_or_mode_is_no_mismatch(tmp_path: Path) -> None:
    """The kubelet changes both for the group of a pod (fsGroup) that mounts the volume."""
    found = folder(tmp_path, b"a")
    checked = asyncio.run(check_digests([found]))
    (tmp_path / "0").chmod(0o660)
    asyncio.run(require_unchanged([found], checked))


def test_a_file_that_is_added_after_the_digests_were_computed_is_a_mismatch(tmp_path: Path) -> None:
    found = folder(tmp_path, b"a")
    checked = asyncio.run(check_digests([found]))
    (tmp_path / MANIFEST).write_bytes(b"{}")
    asyncio.run(require_unchanged([found], checked))
    (tmp_path / "adapter_config.json").write_bytes(b"{}")
    with pytest.raises(Mismatch, match=r"adapter_config\.json is not in the manifest"):
        asyncio.run(require_unchanged([found], checked))


def test_only_changed_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another read of the model would double the time until a pod is ready."""
    found = folder(tmp_path, b"a", b"b")
    checked = asyncio.run(check_digests([found]))
    (tmp_path / "1").chmod(0o660)
    read: list[str] = []
    check = volume._check

    def recorded(folder: Path, entry: dict[str, Any], on_read: Callable[[int], None]) -> Any:
        read.append(entry["name"])
        return check(folder, entry, on_read)

    monkeypatch.setattr(volume, "_check", recorded)
    asyncio.run(require_unchanged([found], checked))
    assert read == ["1"]


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_instead_of_a_file_is_a_mismatch(tmp_path: Path, link: str) -> None:
    """Its target may be another file in the container of vLLM."""
    (tmp_path / "model").mkdir()
    found = folder(tmp_path / "model", b"a")
    (tmp_path / "model" / "0").rename(tmp_path / "target")
    target = tmp_path / "target" if link == "file" else tmp_path
    (tmp_path / "model" / "0").symlink_to(target)
    with pytest.raises(Mismatch, match=r"model/0 cannot be read: .*not a regular file"):
        asyncio.run(check_digests([found]))
