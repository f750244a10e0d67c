"""The adapter with which the base answers: it fits the base, and changes nothing."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.gate.claim import HIDDEN, Claim
from tests.support.gate.gate import running

from finetune_api.safety import tensor_header, untrusted_file
from finetune_gate import rollout
from finetune_gate.adapters import copy as adapters
from finetune_gate.adapters import no_change
from finetune_gate.adapters.copy import CONFIG, WEIGHTS, Base
from finetune_verify.errors import Mismatch


@pytest.fixture
def base(tmp_path: Path) -> Base:
    claim = Claim.create(tmp_path / "claim")
    return adapters.base(
        claim.root / "base",
        sha256=claim.base_manifest,
        kind="original",
        modules=["v_proj"],
        max_rank=16,
    )


def test_its_matrices_fit_a_module_and_are_zero(tmp_path: Path, base: Base) -> None:
    folder = tmp_path / "copies" / "base-1"
    no_change.write(folder, base)
    header, data = tensor_header.read(folder / WEIGHTS)
    name = "base_model.model.model.layers.0.self_attn.v_proj.lora"
    assert {key: tuple(tensor["shape"]) for key, tensor in header.items()} == {
        f"{name}_A.weight": (1, HIDDEN),
        f"{name}_B.weight": (HIDDEN, 1),
    }
    content = (folder / WEIGHTS).read_bytes()[data:]
    assert content == bytes(4 * 2 * HIDDEN)
    config = json.loads((folder / CONFIG).read_text())
    assert (config["r"], config["target_modules"]) == (1, ["v_proj"])


def test_a_base_without_the_modules_of_the_engine(tmp_path: Path, base: Base) -> None:
    other = Base(
        kind="original",
        dtype=base.dtype,
        shapes={"lm_head.weight": (16, HIDDEN)},
        facts={},
        modules=base.modules,
        max_rank=16,
    )
    with pytest.raises(Mismatch, match="none of the modules v_proj"):
        no_change.write(tmp_path / "copies", other)


async def test_no_request_reaches_the_engine_without_an_adapter(tmp_path: Path) -> None:
    """On a CPU, one without would get the weights of the last slot."""
    async with running(tmp_path) as gate:
        await gate.serves(gate.claim.add("a"), gate.claim.add("b"))
        assert gate.vllm.requests
        known = gate.vllm.unchanged | gate.vllm.adapters.keys()
        assert {each["model"] for each in gate.vllm.requests} <= known


async def test_an_engine_that_does_not_load_it_serves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as gate:
        gate.vllm.faults.refuses_unchanged = True
        await gate.vllm.restart()
        await gate.want(gate.claim.add("a"))
        await gate.until("a", lambda each: each.message.startswith("failed: the adapter that"))
        status = await gate.status()
        assert status.self_test_failed
        assert await gate.ready() == 503


async def test_a_full_volume_of_copies_delays_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[Path] = []
    write = no_change.write

    def full(folder: Path, base: Base) -> None:
        if len(failed) < 2:
            folder.mkdir(parents=True)
            failed.append(folder)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, base)

    monkeypatch.setattr(no_change, "write", full)
    async with running(tmp_path) as gate:
        await gate.serves(gate.claim.add("a"))
    assert len(failed) == 2
    assert not any(folder.exists() for folder in failed)


async def test_a_copy_that_fails_once_is_tried_again_and_not_reported_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, faulty = untrusted_file.open_regular, [True]

    def opened(path: Path, **options: bool) -> Any:
        if faulty and path.name == WEIGHTS and "claim" in path.parts:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return read(path, **options)

    monkeypatch.setattr(untrusted_file, "open_regular", opened)
    monkeypatch.setattr(rollout, "RETRY_SECONDS", 0.2)
    async with running(tmp_path) as gate:
        wanted = gate.claim.add("a")
        await gate.want(wanted)
        found = await gate.until("a", lambda each: "Stale file handle" in each.message)
        assert found.state == "Waiting"
        faulty.clear()
        await gate.serves(wanted)
