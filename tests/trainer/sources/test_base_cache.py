"""The base cache: a folder in the layout of the hub client, which replaces downloads of bases."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.trainer.hub import Hub
from tests.support.trainer.stores import DATA, sha256
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import manifest
from finetune_trainer.sources import cache, transfer
from finetune_trainer.sources.repository import RemoteFile, Repository


def create_cache(root: Path, base: Path, hub: Hub) -> Path:
    """Create a base cache in the layout of the hub client, with links to blobs."""
    folder = root / "models--demo--tiny"
    snapshot = folder / "snapshots" / hub.repos["models/demo/tiny"].commit()
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    for path in base.glob("*.safetensors"):
        blob = folder / "blobs" / sha256(path.read_bytes())
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def requested_weights(hub: Hub) -> list[str]:
    return sorted({each.split("/")[-1] for each in hub.requests if each.endswith(".safetensors")})


def test_base_cache_replaces_the_download(
    make: MakeWorkshop, base: Path, hub: Hub, tmp_path: Path
) -> None:
    snapshot = create_cache(tmp_path, base, hub)
    hub.requests.clear()
    workshop = make()
    ended = workshop.run("prepare", FINETUNE_BASE_CACHE=str(tmp_path))
    assert ended.code == 0, ended.log
    assert requested_weights(hub) == []
    assert manifest.valid(workshop.work / "base", kind="base", key=None)
    _, second = sorted(path.name for path in base.glob("model-*.safetensors"))
    blob = (snapshot / second).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"#")
    workshop = make()
    ended = workshop.run("prepare", FINETUNE_BASE_CACHE=str(tmp_path))
    assert ended.code == 0, ended.log
    assert f"the SHA-256 of {second} in the base cache differs from" in ended.log
    assert requested_weights(hub) == [second]
    assert (workshop.work / "base" / second).read_bytes() == (base / second).read_bytes()


def test_partial_copy_from_the_base_cache_is_not_part_of_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read error in the cache fails the first attempt; the next attempt has no cache."""
    snapshot = tmp_path / "cache" / "models--demo--a" / "snapshots" / "c"
    snapshot.mkdir(parents=True)
    # Reading the first byte of this file fails with EIO.
    (snapshot / "a").symlink_to("/proc/self/mem")
    file = RemoteFile(name="a", size=len(DATA), sha256=sha256(DATA))
    repository = Repository(kind="model", name="demo/a", commit="c", files={"a": file})
    into = tmp_path / "base"
    into.mkdir()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    with pytest.raises(OSError, match="Input/output error"):
        cache.take(repository, ["a"], into, on_bytes=lambda count: None)

    @contextmanager
    def read(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        yield offset, iter([DATA[offset:]])

    transfer.fetch(file, read, into, what="it")
    assert {path.name: path.read_bytes() for path in into.iterdir()} == {"a": DATA}


def test_base_cache_without_the_base_is_ignored(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    hub.requests.clear()
    ended = make().run("prepare", FINETUNE_BASE_CACHE=str(tmp_path))
    assert ended.code == 0, ended.log
    assert len(requested_weights(hub)) == 2
    assert "the base cache does not have demo/tiny" in ended.log
