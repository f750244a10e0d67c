"""The checkpoint from which a training resumes if the disk fails to read some of them."""

import errno
from pathlib import Path

import pytest

from finetune_trainer.checkpointing import checkpoints, manifest
from finetune_trainer.errors import Transient
from finetune_trainer.volume.files import fresh
from finetune_trainer.volume.volume_errors import translate_volume_errors

UNREADABLE = Path("/proc/self/mem")
"""A file with a size of 0 in stat(2); reading its first byte fails with EIO."""
EMPTY = "empty"


def saved(folder: Path, *steps: int) -> None:
    for step in steps:
        scratch = fresh(folder / ".writing-checkpoint")
        (scratch / EMPTY).touch()
        facts = {"step": step, "versions": {}}
        checkpoints.save(folder, scratch, step=step, key="k", facts=facts)


def break_file(path: Path) -> None:
    path.unlink()
    path.symlink_to(UNREADABLE)


def newest(folder: Path) -> tuple[int | None, list[str]]:
    warnings: list[str] = []
    found = checkpoints.newest(folder, key="k", versions={}, warn=warnings.append)
    return (None if found is None else found.step), warnings


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("file", [manifest.FILE, EMPTY])
def test_previous_checkpoint_replaces_an_unreadable_one(tmp_path: Path, file: str) -> None:
    saved(tmp_path, 1, 2)
    break_file(tmp_path / "step-2" / file)
    step, warnings = newest(tmp_path)
    assert step == 1
    assert len(warnings) == 1
    assert "checkpoint step-2 cannot be read ([Errno 5] Input/output error" in warnings[0]
    assert "spec.storage.storageClassName" in warnings[0]
    assert names(tmp_path) == [".corrupt-step-2", "step-1"]
    assert newest(tmp_path) == (1, [])
    saved(tmp_path, 2)
    assert names(tmp_path) == ["step-1", "step-2"]


@pytest.mark.parametrize("other", ["unreadable", "damaged"])
def test_run_does_not_start_over_if_no_checkpoint_is_readable(tmp_path: Path, other: str) -> None:
    """The next attempt can possibly read the checkpoint."""
    saved(tmp_path, 1, 2)
    break_file(tmp_path / "step-2" / EMPTY)
    if other == "unreadable":
        break_file(tmp_path / "step-1" / EMPTY)
    else:
        (tmp_path / "step-1" / EMPTY).write_text("x")
    for _ in range(2):
        with (
            pytest.raises(Transient, match=r"at every checkpoint: step-2.*check the disk behind"),
            translate_volume_errors(tmp_path, "training"),
        ):
            newest(tmp_path)
        assert (tmp_path / "step-2" / manifest.FILE).is_file()
    (tmp_path / "step-2" / EMPTY).unlink()
    (tmp_path / "step-2" / EMPTY).touch()
    assert newest(tmp_path) == (2, [])


def test_unlistable_folder_is_not_empty(tmp_path: Path) -> None:
    assert newest(tmp_path / "checkpoints") == (None, [])
    (tmp_path / "checkpoints").touch()
    with pytest.raises(NotADirectoryError):
        newest(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EREMOTEIO, errno.EUCLEAN, errno.EBADMSG, errno.ESTALE]
)
def test_errors_of_a_failing_disk_are_transient(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(Transient, match="I/O error on the volume while training"),
        translate_volume_errors(tmp_path, "training"),
    ):
        raise OSError(number, "reported by the kernel")
