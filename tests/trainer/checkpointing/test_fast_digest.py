"""Digests of files that are read in pieces."""

import hashlib
from pathlib import Path

import pytest
from blake3 import blake3

from finetune_trainer.checkpointing import fast_digest
from finetune_trainer.checkpointing.fast_digest import MAPPED_BYTES, READ_BYTES

SIZES = [
    boundary + more
    for boundary in (READ_BYTES, MAPPED_BYTES, 2 * MAPPED_BYTES)
    for more in (-1, 0, 1)
]


@pytest.fixture(params=[0, 1, *SIZES])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    # No piece has the content of another one.
    content = b"".join(number.to_bytes(4, "big") for number in range(request.param // 4 + 1))
    found = tmp_path / "weights"
    found.write_bytes(content[: request.param])
    return found


def test_digests_are_those_of_the_whole_file(path: Path) -> None:
    content = path.read_bytes()
    expected = hashlib.sha256(content).hexdigest(), blake3(content).hexdigest()
    assert fast_digest.sha256_and_blake3(path) == expected
    assert fast_digest.blake3_of(path) == expected[1]


def test_kernel_that_cannot_populate_a_mapping(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_digest, "POPULATE_READ", 9999)
    assert fast_digest.blake3_of(path) == blake3(path.read_bytes()).hexdigest()
