"""Which files of an earlier FineTuneJob remain on its volume."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from finetune_trainer.errors import ResumeRefused
from finetune_trainer.preparation import earlier_volume
from finetune_trainer.sources import RemoteFile, Repository
from finetune_trainer.volume_layout import Layout

CONTENT = {
    "config.json": b"{}",
    "model-1.safetensors": b"first shard",
    "model-2.safetensors": b"second shard",
    "nested/tokenizer.model": b"tokenizer",
}
STATED = ("model-1.safetensors", "model-2.safetensors", "nested/tokenizer.model")
"""Files whose SHA-256 the source states, as the hub does for large files."""


def repository(commit: str = "c" * 40) -> Repository:
    files = {
        name: RemoteFile(
            name=name,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest() if name in STATED else None,
        )
        for name, content in CONTENT.items()
    }
    return Repository(kind="model", name="demo/base", commit=commit, files=files)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def entries(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
    }


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    work = tmp_path / "work"
    work.mkdir()
    (work / "lock.json").write_text("{}")
    return Layout(work=work)


def take_over(layout: Layout, rows: tuple[Path, ...] = ()) -> Path:
    into = layout.scratch("base-cccccccccccc")
    earlier_volume.take_over(layout, repository(), into, rows=rows)
    return into


def test_files_of_the_published_base_are_reused_by_the_digests_of_the_source(
    layout: Layout,
) -> None:
    write(layout.base, CONTENT | {"manifest.json": b"{}"})
    into = take_over(layout)
    assert entries(into) == set(STATED)
    assert {name: (into / name).read_bytes() for name in STATED} == {
        name: CONTENT[name] for name in STATED
    }
    assert entries(layout.work) == {"lock.json", *(f"{into.name}/{name}" for name in STATED)}


def test_all_results_of_the_earlier_job_are_deleted(layout: Layout) -> None:
    folders = ("checkpoints/step-9", "adapter", "merged-b1", "reference", "dataset", "tensorboard")
    for name in folders:
        write(layout.work / name, {"manifest.json": b"{}", "model.safetensors": b"x"})
    write(layout.work, {"usage.json": b"{}", ".merging-b1.json": b"{}", "other": b""})
    write(layout.scratch("adapter"), {"adapter_config.json": b"{}"})
    write(layout.scratch("rows-of-dataset-111111111111"), {"train.jsonl": b"{}"})
    write(layout.work / "lost+found", {"other": b""})
    assert entries(take_over(layout)) == set()
    assert {path.name for path in layout.work.iterdir()} == {
        "lock.json",
        ".writing-base-cccccccccccc",
    }


def test_a_folder_of_the_file_system_that_belongs_to_root_stays(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    (layout.work / "lost+found").mkdir()
    write(layout.checkpoints, {"model.safetensors": b"x"})
    delete = shutil.rmtree

    def denied(path: Path) -> None:
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        delete(path)

    monkeypatch.setattr(shutil, "rmtree", denied)
    take_over(layout)
    assert {path.name for path in layout.work.iterdir()} == {
        "lock.json",
        "lost+found",
        ".writing-base-cccccccccccc",
    }


def test_folders_of_the_datasets_stay(layout: Layout) -> None:
    rows = write(layout.scratch("rows-of-dataset-222222222222"), {"train.jsonl": b"{}"})
    take_over(layout, rows=(rows,))
    assert entries(rows) == {"train.jsonl"}


@pytest.mark.parametrize("where", ["base", ".writing-base-cccccccccccc", ".writing-base-another"])
def test_other_content_of_equal_size_is_deleted(layout: Layout, where: str) -> None:
    write(layout.work / where, CONTENT | {"model-1.safetensors": b"first SHARD"})
    assert entries(take_over(layout)) == set(STATED) - {"model-1.safetensors"}


def test_downloads_of_an_interrupted_attempt_are_reused_except_for_partial_files(
    layout: Layout,
) -> None:
    into = layout.scratch("base-cccccccccccc")
    write(into, {"model-1.safetensors": CONTENT["model-1.safetensors"]})
    write(into, {".model-2.safetensors.part": b"second", "modeling.py": b"import os"})
    write(layout.base, {"model-2.safetensors": CONTENT["model-2.safetensors"]})
    assert entries(take_over(layout)) == {"model-1.safetensors", "model-2.safetensors"}


def test_links_are_deleted_and_not_followed(layout: Layout, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", CONTENT)
    layout.base.mkdir()
    (layout.base / "model-1.safetensors").symlink_to(outside / "model-1.safetensors")
    (layout.base / "nested").symlink_to(outside / "nested")
    layout.checkpoints.symlink_to(outside)
    layout.scratch("base-cccccccccccc").symlink_to(outside)
    into = take_over(layout)
    assert entries(into) == set()
    assert not into.is_symlink()
    assert not layout.checkpoints.is_symlink()
    assert entries(outside) == set(CONTENT)


def test_special_files_and_folders_with_the_name_of_a_file_are_deleted(layout: Layout) -> None:
    write(layout.base, {"model-1.safetensors/x": b""})
    (layout.base / ".model-2.safetensors.part").mkdir()
    os.mkfifo(layout.base / "model-2.safetensors")
    assert entries(take_over(layout)) == set()


@pytest.mark.parametrize("stop", range(5))
def test_an_interrupted_takeover_is_repeated(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """stop: the number of deletions before the interruption."""
    write(layout.base, CONTENT | {"manifest.json": b"{}"})
    for name in ("checkpoints/step-9", "adapter"):
        write(layout.work / name, {"model.safetensors": b"x"})
    left = [stop]

    def interrupted(path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        remove(path)

    remove = earlier_volume.remove
    with monkeypatch.context() as patch:
        patch.setattr(earlier_volume, "remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            take_over(layout)
    assert entries(take_over(layout)) == set(STATED)
    assert not layout.checkpoints.exists()
    assert not layout.adapter.exists()


def test_a_file_that_cannot_be_deleted_is_refused(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(layout.checkpoints / "step-9", {"model.safetensors": b"x"})

    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", denied)
    with pytest.raises(
        ResumeRefused, match=r"cannot be deleted .*delete the PersistentVolumeClaim"
    ):
        take_over(layout)


def test_rows_without_a_digest_of_the_source_are_deleted(layout: Layout) -> None:
    rows = write(layout.scratch("rows-of-dataset-1"), CONTENT | {".x.part": b""})
    earlier_volume.keep_verified(rows, repository().files)
    assert entries(rows) == set(STATED)
    earlier_volume.keep_verified(layout.scratch("rows-of-dataset-2"), repository().files)
