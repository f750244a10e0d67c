"""Adapters that vLLM would load and apply wrongly are rejected before it sees them."""

import errno
import json
import os
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.support.gate import claim as claims
from tests.support.gate.claim import CONFIG, HIDDEN, RANK, Claim, Tensors, lora_tensors

from finetune_api.contracts.endpoint import WantedName
from finetune_api.safety import untrusted_file
from finetune_gate.adapters import base_equality
from finetune_gate.adapters import copy as adapters
from finetune_gate.adapters.copy import Arrived, Base
from finetune_gate.errors import NotCopied, Rejected
from finetune_gate.proofs import proof
from finetune_verify.errors import Mismatch


@pytest.fixture
def claim(tmp_path: Path) -> Claim:
    return Claim.create(tmp_path / "claim")


def base(claim: Claim, **changes: Any) -> Base:
    settings = {"kind": "original", "modules": claims.MODULES, "max_rank": 16, **changes}
    return adapters.base(claim.root / "base", sha256=claim.base_manifest, **settings)


def copied(claim: Claim, wanted: WantedName, **changes: Any) -> Arrived:
    target = claim.root.parent / "copies" / "i1"
    return adapters.copy(claim.root, wanted, target, base(claim, **changes))


def rejected(claim: Claim, wanted: WantedName, match: str, **changes: Any) -> Rejected:
    """Assert that an adapter is rejected and that nothing of it stays; return the error."""
    with pytest.raises(Rejected, match=match) as raised:
        copied(claim, wanted, **changes)
    copies = claim.root.parent / "copies"
    assert not any(copies.iterdir())
    return raised.value


def test_only_what_vllm_needs_is_copied(claim: Claim) -> None:
    arrived = copied(claim, claim.add("a"))
    names = {path.name for path in arrived.folder.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"}
    assert arrived.template == claims.TEMPLATE
    assert arrived.reference is not None
    assert len(arrived.reference.rows) == claims.ROWS


def test_a_job_without_a_template_uses_that_of_the_base(claim: Claim) -> None:
    assert copied(claim, claim.add("a", template=None)).template is None


def without(part: str) -> Tensors:
    return {name: shape for name, shape in lora_tensors().items() if part not in name}


def renamed(old: str, new: str) -> Tensors:
    return {name.replace(old, new): shape for name, shape in lora_tensors().items()}


def shaped(part: str, shape: tuple[int, ...]) -> Tensors:
    return {name: shape if part in name else before for name, before in lora_tensors().items()}


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (renamed("base_model.model.", "base_model.model.language_model."), "does not have"),
        (renamed("base_model.model.", ""), "no LoRA matrix of the base"),
        (renamed(".weight", ".default.weight"), "no LoRA matrix of the base"),
        (renamed("layers.1", "layers.7"), "layers.7.self_attn.* does not have"),
        (without("layers.1.self_attn.v_proj"), "no matrices for model.layers.1.self_attn.v_proj"),
        (without("layers.1"), r"\(2 modules are missing\)"),
        (without("layers.1.self_attn.v_proj.lora_B"), "only one of the two matrices"),
        (without("lora"), "no LoRA matrices"),
        (shaped("q_proj.lora_A", (RANK, HIDDEN - 1)), "have the shapes"),
        (shaped("q_proj.lora_B", (HIDDEN, RANK - 1)), "have the shapes"),
        (lora_tensors() | {"base_model.model.lm_head.lora_A.weight": (RANK, HIDDEN)}, "lm_head"),
        (lora_tensors() | {"base_model.model.model.norm.weight": (HIDDEN, 1)}, "no LoRA matrix"),
    ],
    ids=[
        "wrong prefix", "no prefix", "default keys", "renumbered layers", "a module missing",
        "a layer missing", "A without B", "empty", "columns cut", "rank cut", "output head",
        "a whole tensor",
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_the_base(claim: Claim, tensors: Tensors, match: str) -> None:
    rejected(claim, claim.add("a", tensors=tensors), match)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("use_dora", True),
        ("modules_to_save", ["lm_head"]),
        ("layers_to_transform", [0]),
        ("exclude_modules", ["v_proj"]),
        ("bias", "all"),
        ("peft_type", "ADALORA"),
        ("target_modules", "all-linear"),
    ],
)
def test_settings_that_an_endpoint_does_not_serve(
    claim: Claim, setting: str, value: object
) -> None:
    rejected(claim, claim.add("a", config=CONFIG | {setting: value}), setting)


def test_a_module_that_the_engine_does_not_adapt(claim: Claim) -> None:
    rejected(claim, claim.add("a"), "adapts only q_proj", modules=["q_proj"])


def test_a_rank_above_the_limit(claim: Claim) -> None:
    rejected(claim, claim.add("a"), "has rank 4; the endpoint's lora.maxRank is 2", max_rank=2)


def test_an_adapter_of_another_base(claim: Claim) -> None:
    wanted = claim.add("a", facts={"baseCommit": "d" * 40})
    rejected(claim, wanted, "trained on commit d{40} of the base")


FILES = {"model.safetensors": "1" * 64, "config.json": "2" * 64}
OTHER = FILES | {"config.json": "3" * 64}


@pytest.mark.parametrize(
    ("trained", "served", "match"),
    [
        (FILES, FILES, None),
        (FILES, OTHER, r"another config.json \(1 of 2 files differ\)"),
        (FILES, FILES | {"LICENSE": "4" * 64}, "another LICENSE"),
        (FILES | {"LICENSE": "4" * 64}, FILES, "another LICENSE"),
        ({}, FILES, "another config.json"),
    ],
)
def test_the_files_of_the_base_count_and_not_its_commit(
    trained: dict[str, str], served: dict[str, str], match: str | None
) -> None:
    facts = {"baseCommit": "a", "quantizedModules": {}, "baseFiles": trained}
    ours = {"baseCommit": "b", "quantizedModules": {}, "baseFiles": served}
    if match is None:
        base_equality.require(facts, ours, "dequantized")
        return
    with pytest.raises(Mismatch, match=match):
        base_equality.require(facts, ours, "dequantized")


def test_bases_without_a_commit_are_not_taken_for_the_same() -> None:
    """A base from a bucket or a claim has no commit."""
    facts: dict[str, Any] = {"baseCommit": None, "quantizedModules": {}}
    with pytest.raises(Mismatch, match="neither a commit nor digests of the files"):
        base_equality.require(facts, facts | {"baseFiles": FILES}, "original")


def scales(path: Path, values: dict[str, bytes]) -> Path:
    """Write the scales of some modules, one byte for each block."""
    entries, data = {}, b""
    for module, blocks in values.items():
        for part, content in ((".absmax", blocks), (".nested_absmax", b"\1\2\3\4")):
            offsets = [len(data), len(data) + len(content)]
            entries[module + part] = {
                "dtype": "U8", "shape": [len(content)], "data_offsets": offsets,
            }  # fmt: skip
            data += content
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def test_blocks_with_another_scale_are_counted(tmp_path: Path) -> None:
    blocks = bytes(range(256)) * 600
    changed = bytearray(blocks)
    for at in (0, 65_535, 65_536, len(blocks) - 1):
        changed[at] ^= 1
    ours = scales(tmp_path / "ours", {"a": blocks, "b": blocks})
    # The order of the modules does not matter.
    theirs = scales(tmp_path / "theirs", {"b": bytes(changed), "a": blocks})
    assert base_equality.different_blocks(theirs, ours) == 4
    assert base_equality.different_blocks(ours, ours) == 0
    with pytest.raises(Mismatch, match="modules of the base"):
        base_equality.different_blocks(scales(tmp_path / "few", {"a": blocks}), ours)
    short = scales(tmp_path / "short", {"a": blocks, "b": blocks[1:]})
    with pytest.raises(Mismatch, match=r"blocks for b\.absmax"):
        base_equality.different_blocks(short, ours)


def test_an_adapter_of_another_quantization(claim: Claim) -> None:
    wanted = claim.add("a", facts={"quantizedModules": {"q": "another"}})
    assert copied(claim, wanted).folder.is_dir(), "the published base has no quantization"
    other = claim.add("b", facts={"quantizedModules": {"q": "another"}})
    with pytest.raises(Rejected, match="another quantization"):
        adapters.copy(
            claim.root, other, claim.root.parent / "other", base(claim, kind="dequantized")
        )


def test_bytes_that_change_during_the_copy(claim: Claim) -> None:
    """They are changed when the copy has read the configuration, but not yet the weights."""
    wanted = claim.add("a")
    weights = claim.root / wanted.path / "adapter" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    read, reached = untrusted_file.open_regular, threading.Event()

    def opened(path: Path, **options: bool) -> Any:
        if path == weights:
            weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            reached.set()
        return read(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(untrusted_file, "open_regular", opened)
        rejected(claim, wanted, "adapter_model.safetensors has changed since it was published")
    assert reached.is_set()


@pytest.mark.parametrize(
    "name",
    ["adapter/manifest.json", "adapter/adapter_model.safetensors", "reference/manifest.json"],
)
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOSPC])
def test_an_error_of_the_file_system_may_pass(claim: Claim, name: str, number: int) -> None:
    wanted = claim.add("a")
    faulty, read = claim.root / wanted.path / name, untrusted_file.open_regular

    def opened(path: Path, **options: bool) -> Any:
        if path == faulty:
            raise OSError(number, os.strerror(number), str(path))
        return read(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(untrusted_file, "open_regular", opened)
        with pytest.raises(NotCopied, match=os.strerror(number)):
            copied(claim, wanted)
    assert copied(claim, wanted).folder.is_dir()


def test_a_folder_that_cannot_be_made_may_be_made_later(claim: Claim) -> None:
    wanted, copies = claim.add("a"), claim.root.parent / "copies"
    copies.write_text("in the way")
    with pytest.raises(NotCopied, match="cannot be used"):
        copied(claim, wanted)
    copies.unlink()
    assert copied(claim, wanted).folder.is_dir()


@pytest.mark.parametrize("change", ["longer", "shorter", "a link", "a pipe", "missing"])
def test_a_file_that_is_not_the_published_one(claim: Claim, change: str) -> None:
    wanted = claim.add("a")
    weights = claim.root / wanted.path / "adapter" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if change == "longer":
        weights.write_bytes(content + b"x")
    elif change == "shorter":
        weights.write_bytes(content[:-1])
    elif change == "a link":
        (claim.root / "elsewhere").write_bytes(content)
        weights.symlink_to(claim.root / "elsewhere")
    elif change == "a pipe":
        os.mkfifo(weights)
    assert not isinstance(rejected(claim, wanted, "cannot be used"), NotCopied)


def test_another_manifest_than_that_of_the_ledger(claim: Claim) -> None:
    first, second = claim.add("a"), claim.add("b")
    swapped = first.model_copy(update={"path": second.path})
    rejected(claim, swapped, "not the folder that was published")


def test_a_reference_of_another_adapter(claim: Claim) -> None:
    first, second = claim.add("a"), claim.add("b")
    folder = claim.root / first.path / "reference"
    for path in (claim.root / second.path / "reference").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    wanted = first.model_copy(update={"reference": second.reference})
    rejected(claim, wanted, "not recorded with this adapter")


def test_a_template_that_the_operator_did_not_state(claim: Claim) -> None:
    wanted = claim.add("a")
    rejected(claim, wanted.model_copy(update={"template": None}), "chat_template.jinja has the")


def test_a_template_that_is_too_long(claim: Claim) -> None:
    rejected(claim, claim.add("a", template="x" * (1 << 16) + "x"), "at most 65536 are used")


def test_copies_of_earlier_starts_are_deleted(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "adapter").mkdir(parents=True)
    (tmp_path / "sequence").write_text("1")
    adapters.sweep(tmp_path, boots=["two"])
    assert {path.name for path in tmp_path.iterdir()} == {"two", "sequence"}
    adapters.sweep(tmp_path / "missing", boots=[])


def test_another_base_than_that_of_the_endpoint(claim: Claim) -> None:
    with pytest.raises(Mismatch, match="base/ is not the folder that was published"):
        adapters.base(
            claim.root / "base", sha256="0" * 64, kind="original", modules=["q"], max_rank=8
        )


def test_the_base_says_in_which_format_its_weights_are(tmp_path: Path) -> None:
    def read(name: str, **facts: str) -> Base:
        published = {"baseCommit": claims.COMMIT, "quantizedModules": {}, **facts}
        digest, _ = claims.publish(tmp_path / name, "base", published, {})
        return adapters.base(
            tmp_path / name, sha256=digest, kind="dequantized", modules=["q"], max_rank=8
        )

    # vLLM may compute in a finer format; the scores are then as coarse as the weights.
    assert proof.served(read("half", dtype="float16"), "float32").dtypes == ("float16", "float32")
    with pytest.raises(Mismatch, match="has the number format 'int8'"):
        read("integers", dtype="int8")
