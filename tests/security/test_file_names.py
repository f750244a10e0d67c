"""A repository names its files so that they leave the download folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune_trainer.errors import InvalidSpec
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
