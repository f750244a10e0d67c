"""Data and helpers for tests of the sources of datasets and models."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tests.support.trainer import tiny
from tests.support.trainer.workshop import Ended

DATA = os.urandom(300_000)
ROWS = "".join(json.dumps(row) + "\n" for row in tiny.rows(24)).encode()
"""24 rows as JSON lines."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def assert_failed(ended: Ended, code: int, reason: str, *said: str) -> None:
    """Check the exit code, the reason and parts of the message of a failed command."""
    assert (ended.code, ended.result["reason"]) == (code, reason), ended.log
    for each in said:
        assert each in ended.message


def download_all(store: Any, into: Path) -> dict[str, bytes]:
    """Download all files of a store, check their digests, and return their contents by name."""
    into.mkdir(exist_ok=True)
    seen: list[int] = []
    found = store.pin()
    digests = store.download(found, list(found.files), into, on_bytes=seen.append)
    files = {name: (into / name).read_bytes() for name in found.files}
    assert digests == {name: sha256(data) for name, data in files.items()}
    assert seen[-1] == sum(map(len, files.values())) == found.size_of(files)
    return files
