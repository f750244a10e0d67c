"""Sources on PersistentVolumeClaims."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.trainer import tiny
from tests.support.trainer.stores import DATA, assert_failed, download_all
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.errors import (
    DatasetNotFound,
    InvalidSpec,
    ModelNotFound,
)
from finetune_trainer.sources.folder import Folder


def folder(root: Path, path: str = "", kind: Any = "model") -> Folder:
    return Folder(
        kind=kind, name=f"pvc://claim/{path}", root=root, path=path, remediation="put it there"
    )


def test_folder_of_a_claim_is_copied(tmp_path: Path) -> None:
    root = tmp_path / "claim"
    (root / "m" / "deep").mkdir(parents=True)
    (root / "m" / "a").write_bytes(DATA)
    (root / "blob").write_bytes(b"b")
    (root / "m" / "deep" / "b").symlink_to("../../blob")
    assert download_all(folder(root, "m"), tmp_path / "a") == {"a": DATA, "deep/b": b"b"}
    assert download_all(folder(root, "m/a"), tmp_path / "b") == {"a": DATA}
    before = folder(root, "m").pin().commit
    assert folder(root, "m").pin().commit == before
    os.utime(root / "blob", (1, 1))
    assert folder(root, "m").pin().commit != before


def test_link_out_of_a_claim_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "claim"
    (root / "m").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (root / "m" / "a").symlink_to("../../secret")
    with pytest.raises(InvalidSpec, match=r"m/a of model .* is a link to a path outside"):
        folder(root, "m").pin()
    (root / "m" / "a").unlink()
    with pytest.raises(ModelNotFound, match="contains no file: put it there"):
        folder(root, "m").pin()
    with pytest.raises(DatasetNotFound, match="does not exist: put it there"):
        folder(root, "other", "dataset").pin()


def test_prepare_reads_base_and_rows_from_a_claim(
    make: MakeWorkshop, base: Path, tmp_path: Path
) -> None:
    claim = tmp_path / "sources" / "shared"
    shutil.copytree(base, claim / "models/tiny")
    (claim / "models/tiny/modeling_tiny.py").write_text("raise SystemExit")
    tiny.dataset(claim / "rows", tiny.rows(24))
    workshop = make(
        model={"source": "pvc://shared/models/tiny"}, dataset={"source": "pvc://shared/rows"}
    )
    where = {"FINETUNE_SOURCES_DIR": str(tmp_path / "sources")}
    ended = workshop.run("prepare", **where)
    assert ended.code == 0, ended.log
    assert ended.result["artifacts"]["rows"] == 24
    assert not (workshop.work / "base/modeling_tiny.py").exists()
    shard = "model-00001-of-00002.safetensors"
    assert (workshop.work / "base" / shard).read_bytes() == (base / shard).read_bytes()
    workshop.succeed("train")
    (claim / "rows/train.jsonl").unlink()
    missing = make(
        model={"source": "pvc://shared/models/tiny"}, dataset={"source": "pvc://shared/rows"}
    )
    assert_failed(
        missing.run("prepare", **where),
        66,
        "DatasetNotFound",
        "copy files to PersistentVolumeClaim shared",
    )
