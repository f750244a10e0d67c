"""A merge that is stopped, killed, runs out of space, or reads changed files."""

import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.trainer import tiny
from tests.support.trainer.faults import AtFileOperation, SlowDigests, SlowPieces, unreadable
from tests.support.trainer.hub import Hub
from tests.support.trainer.workshop import Workshop, command
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import manifest
from finetune_trainer.volume import disk

PAGE = 4096


@pytest.fixture
def trained(done: Workshop, make: MakeWorkshop, tmp_path: Path) -> Workshop:
    """The completed job on a separate volume, before its merge."""
    return before_the_merge(done, make, tmp_path / "work")


def before_the_merge(done: Workshop, make: MakeWorkshop, work: Path) -> Workshop:
    shutil.copytree(done.work, work, dirs_exist_ok=True)
    shutil.rmtree(work / "merged-b1")
    return make(work=work)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def written(workshop: Workshop) -> list[str]:
    """Return the files of an incomplete merge."""
    return [path.name for path in workshop.work.glob(".writing-*/*")]


@pytest.mark.parametrize("file", ["base/config.json", "adapter/adapter_model.safetensors"])
def test_read_error_during_the_merge_is_transient(trained: Workshop, file: str) -> None:
    at = AtFileOperation(volume=trained.work / file, count=1, happens=unreadable)
    ended = trained.with_fault(at).run("merge", build="b1")
    assert (ended.code, ended.result["reason"]) == (75, "Transient"), ended.log
    assert "spec.storage.storageClassName" in ended.result["message"]
    assert written(trained) == []


@pytest.mark.parametrize(
    "slow", [SlowDigests(seconds=60.0), SlowPieces(seconds=2.0)], ids=["digest", "arithmetic"]
)
def test_stop_ends_the_merge_at_once(
    done: Workshop, trained: Workshop, slow: Callable[[], None]
) -> None:
    running = trained.with_fault(slow).start("merge", build="b1")
    running.until(lambda: bool(written(trained)))
    time.sleep(0.3)
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGTERM)
    began = time.monotonic()
    ended = running.wait()
    # Below the 30 s after which the kubelet kills a pod, and far below the time of the merge.
    assert time.monotonic() - began < 15, ended.log
    assert (ended.code, ended.result["outcome"], ended.result["reason"]) == (
        143,
        "stopped",
        "Stopped",
    )
    assert [name for name in written(trained) if not name.endswith(".part")] == []
    trained.succeed("merge", build="b1")
    assert content(trained.work / "merged-b1") == content(done.work / "merged-b1")


def killed_at_flush(
    number: int, arguments: list[str], environment: dict[str, str], log: str
) -> None:
    """Run a command that is killed just before it flushes a file or folder for the n-th time."""
    flush, left = os.fsync, number

    def counted(descriptor: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(descriptor)

    setattr(os, "fsync", counted)  # noqa: B010 (no assignment has both types)
    command(arguments, environment, log)


def test_killed_merge_repeats_one_shard_and_gives_the_same_bytes(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    folder = tiny.model(tmp_path / "base", shard="40KB")
    workshop = make(
        model={"source": hub.add("model", "demo/shards", folder)}, training={"maxSteps": 1}
    )
    workshop.prepare_and_train()
    workshop.succeed("merge", build="b")
    final = workshop.work / "merged-b"
    expected = {path.name: path.read_bytes() for path in final.iterdir()}
    shards = sum(name.endswith(".safetensors") for name in expected)
    assert shards >= 6
    shutil.rmtree(final)

    kept = [0]
    while not final.exists():
        # A shard takes four flushes. Each attempt completes one more shard and is killed in the
        # next one, at a different flush; after the last shard, an attempt is killed during the
        # publication.
        left = 4 + len(kept) % 3 if kept[-1] < shards else 20 * (len(kept) - shards) + 3
        ended = workshop.start("merge", build="b", target=(killed_at_flush, left)).wait()
        assert ended.code in (0, -signal.SIGKILL), ended.log
        lines = re.findall(r"; writing .*?(?:(\d+) shards are already complete)?$", ended.log, re.M)
        kept.append(int(lines[-1] or 0))
        assert len(kept) <= shards + 5, kept
    # A kill does not discard completed shards.
    assert kept[1 : shards + 2] == list(range(shards + 1))
    assert {path.name: path.read_bytes() for path in final.iterdir()} == expected
    assert not list(workshop.work.glob(".merging-*"))


@pytest.mark.exhaustive
def test_merge_killed_at_any_flush_gives_the_same_bytes(
    done: Workshop, make: MakeWorkshop, tmp_path: Path
) -> None:
    expected = content(done.work / "merged-b1")
    kills, code = 0, -signal.SIGKILL
    while code != 0:
        workshop = before_the_merge(done, make, tmp_path / str(kills))
        ended = workshop.start("merge", build="b1", target=(killed_at_flush, kills)).wait()
        code = ended.code
        assert code in (0, -signal.SIGKILL), ended.log
        kills += code != 0
        workshop.succeed("merge", build="b1")
        assert content(workshop.work / "merged-b1") == expected
        assert not list(workshop.work.glob(".*"))
    assert kills > 20


def test_pair_not_applied_exactly_once_is_refused(trained: Workshop) -> None:
    # The merge was killed during the publication, after both shards.
    ended = trained.start("merge", build="b1", target=(killed_at_flush, 9)).wait()
    assert ended.code == -signal.SIGKILL
    file = trained.work / ".merging-b1.json"
    before = file.read_text()
    name = "model.layers.1.mlp.up_proj.weight"
    assert before.count(f'"{name}"') == 1
    for said, after in ((0, '"x"'), (2, f'"{name}", "{name}"')):
        file.write_text(before.replace(f'"{name}"', after))
        ended = trained.run("merge", build="b1")
        assert (ended.code, ended.result["reason"]) == (84, "NotMergeable")
        words = f"the adapter weights of {name} were applied {said} times instead of once"
        assert words in ended.message
    file.write_text(before)
    trained.succeed("merge", build="b1")


def fill_up_to(volume: Path, room: int) -> None:
    """Fill a volume so that ``room`` bytes are free."""
    (volume / "ballast").write_bytes(b"0" * (disk.free_bytes(volume) - room))


def test_missing_space_fails_before_writing(
    done: Workshop, make: MakeWorkshop, small_volume: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=40m", small_volume], check=True)
    workshop = before_the_merge(done, make, small_volume)
    sizes = {entry.name: entry.size for entry in manifest.read(done.work / "base").files}
    shards = (done.work / "merged-b1").glob("*.safetensors")
    sizes |= {path.name: path.stat().st_size for path in shards}
    needed = math.ceil((sum(sizes.values()) + disk.RESERVE) / PAGE) * PAGE
    # The file with the holder of the lock takes one page.
    fill_up_to(small_volume, needed)
    ended = workshop.run("merge", build="b1")
    assert (ended.code, ended.result["reason"]) == (73, "VolumeFull")
    assert f"the merged model (float16) needs {disk.human(sum(sizes.values()))}" in ended.message
    assert "raise spec.storage.size by at least" in ended.message
    assert written(workshop) == []
    (small_volume / "ballast").unlink()
    fill_up_to(small_volume, needed + PAGE)
    workshop.succeed("merge", build="b1")


def test_partial_shard_frees_its_space_for_the_next_attempt(
    done: Workshop, make: MakeWorkshop, small_volume: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=40m", small_volume], check=True)
    workshop = before_the_merge(done, make, small_volume)
    # The merge was killed in the second of two shards.
    ended = workshop.start("merge", build="b1", target=(killed_at_flush, 4)).wait()
    assert ended.code == -signal.SIGKILL
    (part,) = small_volume.glob(".writing-*/.*.part")
    room = part.stat().st_size
    assert room > 20 * PAGE
    other_files = [
        each for each in (done.work / "merged-b1").iterdir() if each.suffix != ".safetensors"
    ]
    needed = room + sum(path.stat().st_size for path in other_files)
    fill_up_to(small_volume, needed + disk.RESERVE + 5 * PAGE - room)
    workshop.succeed("merge", build="b1")
    assert content(workshop.work / "merged-b1") == content(done.work / "merged-b1")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"', b'["'),
        (b"model.layers", b"madel.layers"),
        (b"self_attn.q_proj", b"self_attn.x_proj"),
        (b'"BF16"', b'"BF17"'),
        (b'"BF16"', b'"F16" '),
        (b'"shape":[64', b'"shape":[46'),
        (b'"shape":[64', b'"shape":[-1'),
        (b'"shape":[64', b'"shape":[99'),
        (b'"data_offsets":[', b'"data_offsets": '),
        (b'"data_offsets"', b'"datA_offsets"'),
    ],
    ids=str,
)
def test_changed_base_header_is_refused(trained: Workshop, before: bytes, after: bytes) -> None:
    shard = sorted((trained.work / "base").glob("*.safetensors"))[-1]
    header = shard.read_bytes()
    assert before in header
    assert len(before) == len(after)
    shard.write_bytes(header.replace(before, after, 1))
    refused_as_changed(trained, shard)


@pytest.mark.parametrize("at", [0, 7, -1], ids=["length", "length's end", "last weight"])
def test_changed_base_byte_is_refused(trained: Workshop, at: int) -> None:
    shard = sorted((trained.work / "base").glob("*.safetensors"))[-1]
    data = bytearray(shard.read_bytes())
    data[at] ^= 1
    shard.write_bytes(data)
    refused_as_changed(trained, shard)


def refused_as_changed(workshop: Workshop, shard: Path) -> None:
    ended = workshop.run("merge", build="b1")
    assert (ended.code, ended.result["reason"]) == (78, "ResumeRefused"), ended.log
    assert f"base/{shard.name} has changed since it was published" in ended.message
    assert "merged-b1" not in workshop.published()


class CreatesFile:
    """An object whose unpickling creates a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize(
    ("folder", "name", "instead"),
    [
        ("adapter", "adapter_model.bin", "adapter_model.safetensors"),
        ("base", "pytorch_model.bin", None),
        ("base", "extra/state.pt", None),
    ],
)
def test_pickle_is_refused_before_writing(
    trained: Workshop, tmp_path: Path, folder: str, name: str, instead: str | None
) -> None:
    scratch, final = tmp_path / "changed", trained.work / folder
    shutil.copytree(final, scratch)
    (scratch / name).parent.mkdir(exist_ok=True)
    (scratch / name).write_bytes(pickle.dumps(CreatesFile(tmp_path / "it ran")))
    if instead is not None:
        (scratch / instead).unlink()
    found = manifest.read(final)
    shutil.rmtree(final)
    shutil.move(scratch, trained.work / "scratch")
    manifest.publish(
        trained.work / "scratch", final, kind=found.kind, key=found.key, facts=found.facts
    )
    ended = trained.run("merge", build="b1")
    assert (ended.code, ended.result["reason"]) == (84, "NotMergeable")
    assert (
        f"{folder}/{name} is a pickle. Pickles can run code and are never loaded" in ended.message
    )
    assert "set spec.rerun" in ended.message
    assert not (tmp_path / "it ran").exists()
    assert written(trained) == []
