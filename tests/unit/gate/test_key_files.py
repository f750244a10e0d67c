"""The API keys of the jobs, which the kubelet mounts from a Secret."""

import hashlib
from pathlib import Path

import pytest
from tests.support.gate.gate import running

from finetune_gate import __main__ as gate
from finetune_gate import key_files

KEY, OTHER = "key-of-a", "another-key"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_an_entry_lists_digests_one_per_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f"{digest(KEY)}\n{digest(OTHER)}\n")
    (tmp_path / "b").write_text(f"{KEY} {digest(KEY)[:-1]}\n")
    (tmp_path / "..data").write_text(digest(KEY))
    found = key_files.read(tmp_path)
    assert found == {"a": tuple(sorted((digest(KEY), digest(OTHER)))), "b": ()}
    assert key_files.counted(found) == "API keys by job: a 2, b 0"


def test_a_missing_secret_has_no_keys(tmp_path: Path) -> None:
    assert key_files.read(tmp_path / "absent") == {}


async def test_keys_of_a_job_open_its_names_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "KEYS_SECONDS", 0.02)
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "a").write_text(digest(KEY))
    async with running(tmp_path, "--keys", str(keys)) as found:
        await found.serves(
            found.claim.add("a").model_copy(update={"job": "a"}),
            found.claim.add("b").model_copy(update={"job": "b"}),
        )
        assert (await found.chat("a", key=KEY))[0] == 200
        assert (await found.chat("a"))[0] == 404
        assert (await found.chat("a", key=OTHER))[0] == 404
        assert (await found.chat("b", key=KEY))[0] == 404, "a job without an entry has no key"
        (keys / "b").write_text(digest(OTHER))
        await found.answers("b", 200, key=OTHER)
        (keys / "a").write_text("")
        await found.answers("a", 404, key=KEY)
