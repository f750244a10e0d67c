"""Which files of a folder the ledger vouches for, and which files are copied at all."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from finetune_cli.copying import transfer, vouched
from finetune_cli.copying.selection import Selection, select
from finetune_cli.errors import CommandFailed
from finetune_trainer.checkpointing import manifest

FILES = {
    "model.safetensors": b"weights",
    "additional_chat_templates/tools.jinja": b"{{ x }}",
    "tokenizer.model": b"t",
    "LICENSE-MODEL": b"l",
    "README.md": b"# card",
    "events.out.tfevents.finetune": b"e",
}


def published(folder: Path, **files: bytes) -> manifest.Manifest:
    scratch = folder.with_name("scratch")
    for name, content in {**FILES, **files}.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_bytes(content)
    return manifest.publish(scratch, folder, kind="merged", key="k", facts={})


def selection(**changes: Any) -> Selection:
    given = {"revision": "aaaa", "part": "merged", "folder": "/work/merged-b1", "digest": None}
    return Selection(**given | changes)


def test_a_replaced_card_does_not_match_the_ledger(tmp_path: Path) -> None:
    """The card is not part of the digest of the model, but of the manifest."""
    recorded = published(tmp_path / "m")
    text = (tmp_path / "m" / manifest.FILE).read_text()
    own = selection(digest=recorded.digest, manifest=recorded.sha256)
    assert vouched.parsed(text, own) == recorded
    assert vouched.summary(recorded, own, "job x").endswith("manifest matches the ledger of job x")
    other = published(tmp_path / "m", **{"README.md": b"# card of the tenant"})
    text = (tmp_path / "m" / manifest.FILE).read_text()
    assert other.digest == recorded.digest
    with pytest.raises(CommandFailed, match=r"SHA-256 of /work/merged-b1/manifest\.json is .*vol"):
        vouched.parsed(text, own)
    digest_only = selection(digest=recorded.digest)
    assert vouched.parsed(text, digest_only) == other
    assert vouched.summary(other, digest_only, "job x").endswith(
        "ledger of job x, which does not cover README.md, events.out.tfevents.finetune"
    )


def test_a_ledger_without_digests_vouches_for_nothing(tmp_path: Path) -> None:
    found = published(tmp_path / "m")
    assert "has no digest to compare" in vouched.summary(found, selection(), "job x")


@pytest.mark.parametrize(("part", "expected"), [("adapter", "a" * 64), ("merged", "b" * 64)])
def test_the_manifest_of_the_part_is_selected(part: Any, expected: str) -> None:
    def merge(build: str, attempt: int, outcome: str, manifest: str | None) -> dict[str, Any]:
        own = {"build": build, "mergedManifest": manifest}
        return {"stage": "merge", "attempt": attempt, "outcome": outcome, **own}

    revision = {
        "revision": "aaaa",
        "stages": [
            {"stage": "train", "attempt": 1, "outcome": "Completed"},
            merge("b2", 1, "Completed", "c" * 64),
            merge("b1", 1, "Completed", "b" * 64),
        ],
        "artifacts": {"adapterManifest": "a" * 64},
    }
    status = {"revisions": [revision], "revision": "aaaa", "build": "b1"}
    job = {"metadata": {"name": "support"}, "status": status}
    assert select(json.loads(json.dumps(job)), part, None).manifest == expected


def test_files_of_a_model_are_copied(tmp_path: Path) -> None:
    assert set(transfer.expected(published(tmp_path / "m"))) == set(FILES)


@pytest.mark.parametrize(
    "name",
    [".envrc", ".git/hooks/post-checkout", "sitecustomize.py", "x/.x/a.json", "a.pth", "Makefile"],
)
def test_files_that_other_programs_run_are_refused(tmp_path: Path, name: str) -> None:
    found = published(tmp_path / "m", **{name: b"evil"})
    with pytest.raises(CommandFailed, match="is not a file of a model"):
        transfer.expected(found)


def test_a_file_with_more_bytes_than_its_entry_is_not_received(tmp_path: Path) -> None:
    """The digest would be compared only after all of them are on the disk."""
    entry = manifest.Entry(name="a.json", size=3, sha256="")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo("a.json")
        member.size = 1 << 20
        tar.addfile(member, io.BytesIO(bytes(1 << 20)))
    stream.seek(0)
    received: list[int] = []
    with pytest.raises(CommandFailed, match=r"a\.json has 1048576 bytes on the volume, but 3"):
        transfer.receive(stream, {"a.json": entry}, tmp_path, received.append)
    assert received == []
