"""Pinning the files of a dataset on a claim: its card, its folders, and what is recorded."""

from pathlib import Path

import pytest

from finetune_api.v1alpha1.data.rows import Rows
from finetune_trainer.data import dataset_files
from finetune_trainer.data.dataset_files import RowSource
from finetune_trainer.errors import DatasetInvalid
from finetune_trainer.volume_layout import Layout

CARD = """---
configs: [{config_name: all, data_files: 'all/**', default: true}, {config_name: de}]
---
"""


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mounted claim with two folders of rows."""
    monkeypatch.setenv("FINETUNE_SOURCES_DIR", str(tmp_path / "sources"))
    folder = tmp_path / "sources/claim/rows"
    for name in ("all", "de"):
        (folder / name).mkdir(parents=True)
        (folder / name / "train.jsonl").write_text('{"text": "x"}\n')
    return folder


def pinned(work: Path, source: str = "pvc://claim/rows") -> RowSource:
    source_ = dataset_files.pin("dataset", Rows(source=source), Layout(work=work))
    assert list(work.iterdir()) == []
    return source_


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_folders_of_a_claim_are_not_combined(claim: Path, work: Path) -> None:
    with pytest.raises(DatasetInvalid, match=r"several folders.*: all, de\. Set dataset\.source"):
        pinned(work)
    assert pinned(work, "pvc://claim/rows/de").files == ("train.jsonl",)


def test_card_of_a_claim_declares_the_default(claim: Path, work: Path) -> None:
    (claim / "README.md").write_text(CARD)
    found = pinned(work)
    assert found.files == ("all/train.jsonl",)
    assert found.record.config == "all"


def test_keys_of_the_hidden_file_replace_those_of_the_card(claim: Path, work: Path) -> None:
    (claim / "README.md").write_text(CARD)
    (claim / ".huggingface.yaml").write_text("configs: [{config_name: one, data_dir: de}]\n")
    found = pinned(work)
    assert found.record.model_dump(exclude_none=True) == {
        "dataset": "dataset",
        "config": "one",
        "commit": found.repository.commit,
        "split": "train",
        "fileCount": 1,
        "files": ["de/train.jsonl"],
    }


def test_card_in_another_encoding_is_read(claim: Path, work: Path) -> None:
    (claim / "README.md").write_bytes(CARD.encode() + b"Gr\xfc\xdfe\n")
    assert pinned(work).files == ("all/train.jsonl",)


def test_record_and_log_name_the_first_files(
    claim: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (claim / "de/train.jsonl").unlink()
    for at in range(26):
        (claim / "de" / f"{at:05}\x1b[2J.jsonl").write_text('{"text": "x"}\n')
    found = pinned(work, "pvc://claim/rows/de")
    assert len(found.files) == found.record.file_count == 26
    assert len(found.record.files) == 10
    logged = "".join(capsys.readouterr())
    assert "and 16 more" in logged
    assert "\x1b" not in logged + str(found.record.files)
