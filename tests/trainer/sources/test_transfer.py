"""Transfers of single files, and the text of their errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.support.trainer.hub import SIGNATURE
from tests.support.trainer.stores import DATA

from finetune_trainer.errors import Transient
from finetune_trainer.sources import transfer
from finetune_trainer.sources.repository import RemoteFile, brief


def test_messages_contain_no_query_of_a_url() -> None:
    for address in ("http://c.test/a", "https://c.test/a"):
        said = (
            f"Client error '403' for url '{address}?X-Sig={SIGNATURE}&Key=b'\nFor more: {address}"
        )
        assert brief(ValueError(said)) == (
            f"ValueError: Client error '403' for url '{address}' For more: {address}"
        )


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("bytes 1000-2999/*", "returned a part of the file without its offset"),
        (None, "returned a part of the file without its offset"),
        ("bytes 1500-2999/3000", "resumed at byte 1500 instead of 1000"),
    ],
)
def test_partial_answer_at_the_wrong_offset_is_not_written(
    tmp_path: Path, place: str | None, said: str
) -> None:
    """Without a known SHA-256, only the size of the file is checked after the download."""
    (tmp_path / ".a.part").write_bytes(DATA[:1000])

    @contextmanager
    def read(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        headers = {} if place is None else {"Content-Range": place}
        yield transfer.streamed(
            httpx.Response(206, headers=headers, content=iter([DATA[1000:3000]]))
        )

    file = RemoteFile(name="a", size=3000, sha256=None)
    with pytest.raises(Transient, match=said):
        transfer.fetch(file, read, tmp_path, what="it")
    assert (tmp_path / ".a.part").read_bytes() == DATA[:1000]
