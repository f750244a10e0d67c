"""Shards of a merged model on disk: complete or refused; progress after a kill."""

import os
from pathlib import Path

import pytest

from finetune_trainer.checkpointing import safetensors_writer
from finetune_trainer.checkpointing.safetensors_writer import (
    Shard,
    ShardProgress,
    write_shard,
)

SIZE = 4096
SHARD = Shard(name="a.safetensors", header=b"#" * 8, entries={}, data=SIZE)


def test_incomplete_shard_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="has 4103 bytes instead of 4104"),
        write_shard(tmp_path / SHARD.name, SHARD) as writer,
    ):
        writer.write(bytes(SIZE - 1))
    assert not (tmp_path / SHARD.name).exists()
    with write_shard(tmp_path / SHARD.name, SHARD) as writer:
        writer.write(bytes(SIZE))
    assert (tmp_path / SHARD.name).stat().st_size == SHARD.size


def test_large_shard_is_synced_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals are not handled during a flush, so the last flush must be short."""
    monkeypatch.setattr(safetensors_writer, "SYNC_EVERY", 2 * SIZE)
    synced: list[int] = []
    flush = os.fdatasync

    def recorded(descriptor: int) -> None:
        flush(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fdatasync", recorded)
    large = Shard(name=SHARD.name, header=SHARD.header, entries={}, data=5 * SIZE)
    with write_shard(tmp_path / SHARD.name, large) as writer:
        for _ in range(5):
            writer.write(bytes(SIZE))
    assert synced == [8 + 2 * SIZE, 8 + 4 * SIZE]


@pytest.mark.parametrize("size", [SHARD.size - 1, SHARD.size + 1])
def test_recorded_shard_of_another_size_is_written_again(tmp_path: Path, size: int) -> None:
    scratch, plan = tmp_path / "scratch", tmp_path / "plan.json"
    first = ShardProgress(plan, scratch, "k")
    with write_shard(scratch / SHARD.name, SHARD) as writer:
        writer.write(bytes(SIZE))
    first.finished(SHARD, writer.digest, [])
    os.truncate(scratch / SHARD.name, size)
    assert ShardProgress(plan, scratch, "k").done == {}
    assert list(scratch.iterdir()) == []


def test_only_complete_shards_survive_a_killed_merge(tmp_path: Path) -> None:
    """Incomplete shards take space that the next attempt needs."""
    scratch, plan = tmp_path / "scratch", tmp_path / "plan.json"
    first = ShardProgress(plan, scratch, "k")
    with write_shard(scratch / SHARD.name, SHARD) as writer:
        writer.write(bytes(SIZE))
    first.finished(SHARD, writer.digest, [])
    (scratch / ".b.safetensors.part").write_bytes(bytes(SIZE))
    (scratch / "b.safetensors").write_bytes(bytes(SIZE))
    (scratch / "templates").mkdir()
    (scratch / "templates" / "a.jinja").write_text("x")
    again = ShardProgress(plan, scratch, "k")
    assert again.done == first.done
    assert [path.name for path in scratch.rglob("*") if path.is_file()] == [SHARD.name]
    ShardProgress(plan, scratch, "another key")
    assert list(scratch.iterdir()) == []
