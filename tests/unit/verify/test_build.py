"""The served build: number formats, and folders that do not belong together."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_verify import volume
from finetune_verify.build import Build, RecordedDigests, find
from finetune_verify.comparing.comparison import APART, MERGED
from finetune_verify.errors import Mismatch


def publish(folder: Path, kind: str, *, key: str = "r1", digest: str = "", **facts: Any) -> None:
    folder.mkdir(exist_ok=True)
    document = {"kind": kind, "key": key, "digest": digest, "facts": facts, "files": []}
    (folder / volume.MANIFEST).write_text(json.dumps(document))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A volume with one build, and a base with float32 weights."""
    publish(tmp_path / "base", "base")
    (tmp_path / "base" / "config.json").write_text('{"torch_dtype": "float32"}')
    publish(tmp_path / "adapter", "adapter", digest="a1")
    publish(tmp_path / "merged-b1", "merged", adapter="a1", base="dequantized", dtype="float16")
    publish(tmp_path / "reference", "reference", key="r1 a1", adapter="a1")
    return tmp_path


def sha256_of(folder: Path) -> str:
    path = folder / volume.MANIFEST
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64


def found(work: Path, *, dtype: str = "auto", mode: Any = "merged", **changes: Any) -> Build:
    """Return the build if the ledger has the present manifests. changes: of this ledger."""
    recorded = RecordedDigests(
        served=sha256_of(work / ("merged-b1" if mode == "merged" else "base")),
        adapter=sha256_of(work / "adapter"),
        reference=sha256_of(work / "reference"),
    )
    recorded = replace(recorded, **changes)
    return find(work, recorded, revision="r1", build="b1", mode=mode, dtype=dtype)


@pytest.mark.parametrize("mode", ["merged", "adapter"])
@pytest.mark.parametrize("field", ["served", "adapter", "reference"])
def test_a_folder_whose_manifest_the_ledger_does_not_have_is_a_mismatch(
    work: Path, mode: str, field: str
) -> None:
    for digest in ("", "0" * 64):
        with pytest.raises(Mismatch, match=r"/ is not the folder that was published: .*ledger"):
            found(work, mode=mode, **{field: digest})


def test_only_the_ledger_decides_whether_there_is_a_reference(work: Path) -> None:
    assert {each.path.name for each in found(work, reference=None).folders} == {"merged-b1"}
    shutil.rmtree(work / "reference")
    assert {each.path.name for each in found(work, reference=None).folders} == {"merged-b1"}
    with pytest.raises(Mismatch, match=r"reference/manifest\.json cannot be read"):
        found(work)


def test_number_formats_of_weights_and_arithmetic(work: Path) -> None:
    merged = found(work)
    assert (merged.base, merged.dtypes, merged.paths) == (
        "dequantized",
        ("float16", "float16"),
        MERGED,
    )
    assert found(work, dtype="float32").dtypes == ("float16", "float32")
    assert {each.path.name for each in merged.folders} == {"merged-b1", "reference"}
    adapter_build = found(work, mode="adapter")
    # vLLM computes in 16 bits even if the base has 32 bits.
    assert (adapter_build.base, adapter_build.dtypes, adapter_build.paths) == (
        "original",
        ("float32", "bfloat16"),
        APART,
    )
    assert {each.path.name for each in adapter_build.folders} == {"base", "adapter", "reference"}


@pytest.mark.parametrize(
    ("folder", "kind", "changes", "said"),
    [
        ("merged-b1", "merged", {"adapter": "a2"}, "merged-b1/ was not merged from the adapter"),
        (
            "reference",
            "reference",
            {"adapter": "a2"},
            "reference/ was not recorded with the adapter",
        ),
        ("adapter", "adapter", {"digest": "a1", "key": "r2"}, "belongs to revision r2, not r1"),
        (
            "merged-b1",
            "base",
            {},
            "merged-b1/ has the kind base, but the kind merged is expected",
        ),
        (
            "merged-b1",
            "merged",
            {"adapter": "a1", "dtype": "float8"},
            "does not support the number format 'float8'",
        ),
    ],
)
def test_folders_that_do_not_belong_together_are_refused(
    work: Path, folder: str, kind: str, changes: dict[str, Any], said: str
) -> None:
    publish(work / folder, kind, **{"base": "original", **changes})
    with pytest.raises(Mismatch, match=said):
        found(work)


def test_unreadable_reference_is_reported_without_its_rows(work: Path) -> None:
    scores = {"base": [-2.0], "tuned": [-1.0], "rounded": [-1.0]}
    row = {"ids": [1, 2], "spans": [[1, 2]], "dequantized": scores, "original": scores}
    document = {"rows": [row | {"later": "a secret"}], "heldOut": False}
    (work / "reference" / "reference.json").write_text(json.dumps(document))
    with pytest.raises(
        Mismatch, match=r"reference\.json cannot be read: .*rows\.0\.later"
    ) as refused:
        volume.read_reference(work)
    assert "secret" not in str(refused.value)
