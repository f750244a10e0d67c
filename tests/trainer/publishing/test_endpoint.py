"""An adapter arrives on the claim of a shared endpoint whole, or not at all."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.trainer import publishing
from tests.support.trainer.publishing import Published, Volume

from finetune_api.contracts.endpoint import BASE_FILES_FACT, codes_digest, source_digest
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.errors import ResumeRefused, Stopped
from finetune_trainer.publishing.endpoint import push
from finetune_trainer.publishing.transfer import Transfer
from finetune_trainer.volume import disk
from finetune_trainer.volume.files import fresh

FILES = {"model.safetensors": "a" * 64, "config.json": "b" * 64}
CODES = {"model.layers.0.mlp.up_proj": "c" * 64}
UID = "2b2f0d7e-0000-4000-8000-000000000001"


class Endpoint:
    """The volume of a job with a reference, and the folder of the job on the claim."""

    def __init__(self, volume: Volume, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        layout = volume.layout
        found = manifest.read(layout.adapter)
        scratch = layout.adapter.rename(layout.scratch("adapter"))
        facts = {**found.facts, BASE_FILES_FACT: FILES, "quantizedModules": CODES}
        adapter = manifest.publish(
            scratch, layout.adapter, kind=published.ADAPTER, key=found.key, facts=facts
        )
        scratch = fresh(layout.scratch("reference"))
        (scratch / "reference.json").write_text('{"rows": []}')
        recorded = manifest.publish(
            scratch,
            layout.reference,
            kind="reference",
            key=f"{adapter.key} {adapter.digest}",
            facts={"adapter": adapter.digest},
        )
        self.volume = replace(volume, adapter=adapter.sha256)
        self.reference = recorded.sha256
        self.final = folder / adapter.sha256
        self.partial = folder / f".{adapter.sha256}"

    def publish(self, **fields: Any) -> Published:
        shared = {"name": "shared", "model": "hf://demo/tiny", "maxRank": 16}
        own = {name: fields.pop(name) for name in ("source", "codes", "maxRank") if name in fields}
        endpoint = {
            "shared": shared | own,
            "folder": str(self.folder),
            "path": f"jobs/{UID}",
            "reference": self.reference,
            **fields,
        }
        return publishing.run(self.volume, self.volume.target(endpoint=endpoint))

    def is_complete(self) -> bool:
        """Report whether the claim has exactly the files of the volume."""
        layout = self.volume.layout
        return content(self.final) == {
            f"{folder.name}/{name}": data
            for folder in (layout.adapter, layout.reference)
            for name, data in content(folder).items()
        }


@pytest.fixture
def endpoint(volume: Volume, tmp_path: Path) -> Endpoint:
    return Endpoint(volume, tmp_path / "endpoint")


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def rejected(found: Published, *said: str, reason: str = "TargetRejected") -> None:
    assert found.failure[0] == reason
    message = found.failure[1]
    for each in said:
        assert each in message


def test_adapter_and_reference_are_copied(endpoint: Endpoint) -> None:
    found = endpoint.publish().only
    assert endpoint.is_complete()
    sha256 = endpoint.volume.adapter
    assert (found.reference, found.digest, found.manifest) == (
        f"endpoint://shared/jobs/{UID}/{sha256}",
        f"sha256:{sha256}",
        sha256,
    )
    size = sum(map(len, content(endpoint.final).values()))
    assert (found.bytes, found.sent_bytes) == (size, size)
    assert {path.name for path in endpoint.folder.iterdir()} == {sha256}
    # vLLM and the gate run as other users.
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in endpoint.final.rglob("*"))


def test_a_copy_that_is_there_is_kept(endpoint: Endpoint) -> None:
    endpoint.publish()
    before = endpoint.final.stat().st_ino
    again = endpoint.publish().only
    assert again.error is None
    assert again.sent_bytes == 0
    assert endpoint.final.stat().st_ino == before


def test_an_interrupted_copy_is_invisible_and_continued(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sent, stops = len(content(endpoint.volume.layout.adapter)) + 2, [], 0
    check = Transfer.check
    for count in range(1, whole):
        left = iter(range(count))

        def stopped(transfer: Transfer, left: Any = left) -> None:
            check(transfer)
            if next(left, None) is None:
                raise Stopped

        monkeypatch.setattr(Transfer, "check", stopped)
        with pytest.raises(Stopped) as raised:
            endpoint.publish()
        monkeypatch.setattr(Transfer, "check", check)
        artifacts: Any = raised.value.artifacts
        sent.append(artifacts.targets[0].sent_bytes)
        stops += 1
        if endpoint.final.exists():
            break
        assert {path.name for path in endpoint.folder.iterdir()} == {endpoint.partial.name}
    assert stops > 2
    assert endpoint.publish().error is None
    assert endpoint.is_complete()
    assert sum(sent) <= sum(map(len, content(endpoint.final).values())), "a file was copied twice"


def test_what_a_killed_process_left_is_replaced(endpoint: Endpoint) -> None:
    endpoint.publish()
    endpoint.final.rename(endpoint.partial)
    weights = endpoint.partial / "adapter" / "adapter_model.safetensors"
    weights.with_name(".adapter_model.safetensors.part").write_bytes(weights.read_bytes()[:100])
    weights.unlink()
    (endpoint.partial / "adapter" / "adapter_config.json").write_bytes(b"half")
    (endpoint.partial / "adapter" / "foreign.bin").write_bytes(b"foreign")
    assert endpoint.publish().error is None
    assert endpoint.is_complete()
    assert not endpoint.partial.exists()


def test_a_copy_that_was_changed_is_replaced(endpoint: Endpoint) -> None:
    endpoint.publish()
    weights = endpoint.final / "adapter" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert endpoint.publish().error is None
    assert endpoint.is_complete()


@pytest.mark.parametrize("place", ["final", "partial", "file", "folder"])
def test_links_on_the_claim_are_not_followed(
    endpoint: Endpoint, tmp_path: Path, place: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "adapter").mkdir(parents=True)
    if place in ("final", "partial"):
        getattr(endpoint, place).symlink_to(elsewhere)
    elif place == "folder":
        endpoint.partial.mkdir()
        (endpoint.partial / "adapter").symlink_to(elsewhere / "adapter")
    else:
        (endpoint.partial / "adapter").mkdir(parents=True)
        (endpoint.partial / "adapter" / "adapter_config.json").symlink_to(elsewhere / "file")
    assert endpoint.publish().error is None
    assert endpoint.is_complete()
    assert content(elsewhere) == {}
    assert not any(path.is_symlink() for path in endpoint.folder.rglob("*"))


def test_only_needed_revisions_stay(endpoint: Endpoint) -> None:
    kept, gone = "d" * 64, "e" * 64
    for name in (kept, gone, f".{gone}"):
        (endpoint.folder / name / "adapter").mkdir(parents=True)
    endpoint.publish(keep=(kept,))
    assert {path.name for path in endpoint.folder.iterdir()} == {kept, endpoint.volume.adapter}


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "reference/reference.json"])
def test_a_file_that_changed_on_the_volume_is_not_published(endpoint: Endpoint, name: str) -> None:
    path = endpoint.volume.layout.work / name
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    found = endpoint.publish()
    assert found.failure[0] == ResumeRefused.reason
    assert "set spec.rerun" in found.failure[1]
    assert not endpoint.final.exists()


def test_another_adapter_than_that_of_the_ledger(endpoint: Endpoint) -> None:
    endpoint.volume = replace(endpoint.volume, adapter="9" * 64)
    assert endpoint.publish().failure[0] == ResumeRefused.reason
    assert not list(endpoint.folder.iterdir())


def test_a_training_without_a_reference(endpoint: Endpoint) -> None:
    rejected(endpoint.publish(reference=""), "recorded no reference", "set spec.rerun")
    assert not list(endpoint.folder.iterdir())


def test_the_base_of_the_endpoint(endpoint: Endpoint) -> None:
    same = {"source": source_digest(FILES), "codes": codes_digest(CODES)}
    assert endpoint.publish(**same).error is None
    other = source_digest(FILES | {"config.json": "0" * 64})
    for field, value, said in (
        ("source", other, "model.revision"),
        ("codes", codes_digest(CODES | {"lm_head": "0" * 64}), "base: original"),
        ("maxRank", 8, "training.lora.r is 16"),
    ):
        found = endpoint.publish(**same | {field: value})
        rejected(found, said, "serving.mode: merged", reason="InvalidSpec")


def test_a_digest_of_several_files_depends_on_names_and_not_on_their_order() -> None:
    assert source_digest(FILES) == source_digest(dict(reversed(FILES.items())))
    swapped = dict(zip(FILES, reversed(FILES.values()), strict=True))
    assert source_digest(FILES) != source_digest(swapped)


def test_a_full_claim(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: disk.RESERVE + 1000)
    rejected(endpoint.publish(), "storage.size of the FineTuneEndpoint", "shared")
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(push, "_copy", full)
    rejected(endpoint.publish(), "FineTuneEndpoint shared is full")
    assert not endpoint.final.exists()


def test_a_failing_disk_is_retried(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(push, "_copy", failing)
    found = endpoint.publish()
    assert found.failure[0] == "Transient"
    assert "FineTuneEndpoint shared" in found.failure[1]


def test_the_claim_holds_other_bytes(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    copy: Callable[..., None] = push._copy

    def damaged(file: Any, target: Path, transfer: Transfer) -> None:
        copy(file, target, transfer)
        if hashlib.sha256(target.read_bytes()).hexdigest() == file.sha256:
            target.write_bytes(b"x" * file.size)

    monkeypatch.setattr(push, "_copy", damaged)
    rejected(endpoint.publish(), "does not hold the files")
