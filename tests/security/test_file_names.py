"""A repository names its files so that they leave the download folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from tests.security.nested_folders import nested

from finetune_trainer.errors import InvalidSpec, Transient
from finetune_trainer.sources.folder import Folder
from finetune_trainer.sources.hub import Hub
from finetune_trainer.sources.repository import RemoteFile
from finetune_trainer.sources.transfer import fetch

pytestmark = pytest.mark.finding(17, "names of files in a repository")
OUTSIDE = (
    "../outside",
    "../../outside",
    "a/../../outside",
    "./../outside",
    "/tmp/outside",
    "link/outside",
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_name_that_leaves_the_download_folder_is_rejected(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)

    @contextmanager
    def read(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        raise AssertionError("the file was requested")
        yield 0, iter(())

    file = RemoteFile(name=name, size=1, sha256=None)
    with pytest.raises(InvalidSpec, match="leads out of the download folder"):
        fetch(file, read, folder, what="model acme/evil")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


@pytest.mark.parametrize("commit", ["../../../../tmp", "a/../../tmp/", "/tmp", "", "a\x1b[2J", "."])
def test_commit_of_a_hub_that_is_no_name_is_rejected(
    commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of folders on the volume contain the commit."""
    info = SimpleNamespace(sha=commit, siblings=())
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: info)
    hub = Hub(kind="model", source="hf://acme/evil", revision="main", token=None, ca_file=None)
    error, message = (InvalidSpec, "invalid commit") if commit else (Transient, "no commit")
    with pytest.raises(error, match=message):
        hub.pin()


def claim(root: Path) -> Folder:
    return Folder(kind="dataset", name="pvc://claim", root=root, path="", remediation="copy it")


def test_claim_with_a_link_that_leads_to_itself_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InvalidSpec, match=r"[ab] of dataset .* is a link that leads to itself"):
        claim(tmp_path).pin()


def test_claim_with_a_name_that_is_not_text_is_rejected(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b.jsonl")).write_text("{}")
    with pytest.raises(InvalidSpec, match=r"file name \\xff\\x1b\.jsonl of .* is not valid UTF-8"):
        claim(tmp_path).pin()


@pytest.mark.parametrize("name", ["d", "nested"], ids=["many levels", "long path"])
def test_claim_with_deeply_nested_folders_is_rejected(name: str) -> None:
    with (
        nested(name) as root,
        pytest.raises(InvalidSpec, match=r"folders of dataset .* are nested too deeply"),
    ):
        claim(root).pin()
