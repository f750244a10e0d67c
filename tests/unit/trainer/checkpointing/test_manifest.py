"""A folder is published whole, whatever a killed attempt left in it."""

from pathlib import Path

from finetune_trainer.checkpointing import manifest


def test_partial_manifest_of_a_killed_attempt_is_not_published(tmp_path: Path) -> None:
    """A download is gone on with in the same folder, also after a kill while it was published."""
    scratch = tmp_path / ".writing-base"
    scratch.mkdir()
    (scratch / "config.json").write_text("{}")
    for name in (manifest.FILE, f".{manifest.FILE}.part"):
        (scratch / name).write_text("half")
    made = manifest.publish(scratch, tmp_path / "base", kind="base", key="k", facts={})
    assert [entry.name for entry in made.files] == ["config.json"]
    assert manifest.verify(tmp_path / "base", kind="base", key="k") == made
    assert {path.name for path in (tmp_path / "base").iterdir()} == {"config.json", manifest.FILE}
