"""The list of files in the result of a stage: short, exact, and read only if it is well-formed."""

import base64
import hashlib
import zlib

import pytest

from finetune_api.contracts.provenance import file_list


def _files(shards: int) -> dict[str, str]:
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    names += ["README.md", "config.json", "manifest.json", "tokenizer.json", "ä/\n\u2028.txt"]
    return {name: hashlib.sha256(name.encode()).hexdigest() for name in names}


@pytest.mark.parametrize("shards", [0, 1, 30])
def test_files_are_read_as_they_were_written(shards: int) -> None:
    assert file_list.unpack(file_list.pack(_files(shards))) == _files(shards)


def test_order_of_the_files_does_not_matter() -> None:
    files = _files(3)
    assert file_list.pack(dict(reversed(files.items()))) == file_list.pack(files)


def test_files_of_a_model_with_70_billion_parameters_leave_room_in_a_result() -> None:
    assert len(file_list.pack(_files(30))) < 2048


def _packed(names: list[str], digests: bytes) -> str:
    return base64.b64encode(zlib.compress("\0".join(names).encode()) + digests).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64",
        "AAAA",
        file_list.pack(_files(1))[:-4],
        _packed(["a", "b"], bytes(32)),
        _packed(["a"], bytes(64)),
        _packed(["b", "a"], bytes(64)),
        _packed(["a", "a"], bytes(64)),
        _packed(["x" * (1 << 20)], bytes(32)),
        base64.b64encode(zlib.compress(b"\xff") + bytes(32)).decode(),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is no list|not in order|decode"):
        file_list.unpack(text)
