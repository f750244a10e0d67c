"""A published folder is complete and durable, whatever files a killed attempt left in it."""

import os
from pathlib import Path

import pytest

from finetune_trainer.checkpointing import manifest


def test_partial_manifest_of_a_killed_attempt_is_not_published(tmp_path: Path) -> None:
    """A download continues in the same folder, even after a kill during the publication."""
    scratch = tmp_path / ".writing-base"
    scratch.mkdir()
    (scratch / "config.json").write_text("{}")
    for name in (manifest.FILE, f".{manifest.FILE}.part"):
        (scratch / name).write_text("half")
    made = manifest.publish(scratch, tmp_path / "base", kind="base", key="k", facts={})
    assert [entry.name for entry in made.files] == ["config.json"]
    assert manifest.verify(tmp_path / "base", kind="base", key="k") == made
    assert {path.name for path in (tmp_path / "base").iterdir()} == {"config.json", manifest.FILE}


def test_everything_is_synced_before_the_rename_that_publishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power failure could leave a published folder with empty files."""
    calls: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.rename

    def recorded_sync(descriptor: int) -> None:
        sync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append(("sync", str(path.relative_to(tmp_path))))

    def recorded_rename(source: str, target: str) -> None:
        rename(source, target)
        calls.append(("rename", str(Path(target).relative_to(tmp_path))))

    scratch = tmp_path / ".writing-base"
    (scratch / "templates").mkdir(parents=True)
    for name in ("config.json", "templates/a.jinja"):
        (scratch / name).write_text("{}")
    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    manifest.publish(scratch, tmp_path / "base", kind="base", key="k", facts={})
    inside = scratch.name
    part, whole = f"{inside}/.{manifest.FILE}.part", f"{inside}/{manifest.FILE}"
    published = calls.index(("rename", "base"))
    for name in ("config.json", "templates/a.jinja", "templates"):
        assert ("sync", f"{inside}/{name}") in calls[:published], name
    assert calls.index(("sync", part)) < calls.index(("rename", whole))
    assert ("sync", inside) in calls[calls.index(("rename", whole)) : published]
    assert ("sync", ".") in calls[published:]
