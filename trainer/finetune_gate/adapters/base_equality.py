"""Whether an adapter was trained against the weights that the endpoint serves.

The manifest of a base has facts of its job, so the digests of the published files are compared, and
for a dequantized base those of the 4-bit weights. The scales of these weights may differ in their
last bits between devices: the endpoint uses its own, and the blocks that differ are counted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_api.contracts.endpoint import BASE_FILES_FACT
from finetune_api.contracts.reference import BaseKind
from finetune_api.safety import tensor_header, untrusted_file
from finetune_verify.errors import Mismatch

SCALES = "quantization.safetensors"
"""File of an adapter with the scales of its training."""
PART = ".absmax"
"""End of the names of the scales of the blocks: one byte each."""
READ_BYTES = 1 << 16


def require(trained: Mapping[str, Any], served: Mapping[str, Any], kind: BaseKind) -> None:
    """Raise Mismatch unless the facts of two manifests name the same base. Pure.

    trained: of an adapter. served: of the base of the endpoint.
    """
    theirs, ours = trained.get(BASE_FILES_FACT), served.get(BASE_FILES_FACT)
    if theirs is None or ours is None:
        # One of them was written by an earlier version.
        if not (trained.get("baseCommit") and served.get("baseCommit")):
            raise Mismatch(
                "neither a commit nor digests of the files show that the adapter was trained on "
                "the base of the endpoint: set spec.rerun of the job to train it again"
            )
        if trained["baseCommit"] != served["baseCommit"]:
            raise Mismatch(
                f"the adapter was trained on commit {trained['baseCommit']} of the base, but the "
                f"endpoint serves commit {served['baseCommit']}: use an endpoint with that base"
            )
    elif different := {name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name)}:
        raise Mismatch(
            f"the adapter was trained on a base with another {min(different)} ({len(different)} of "
            f"{len(ours)} files differ): use an endpoint with that base"
        )
    if kind == "dequantized" and trained["quantizedModules"] != served["quantizedModules"]:
        raise Mismatch(
            "the adapter was trained with another quantization than that of the endpoint's base: "
            "use an endpoint of its own, or one with base: original"
        )


def different_blocks(trained: Path, served: Path) -> int:
    """Return the number of blocks with another scale. trained, served: files with the scales."""
    theirs, ours = _scales(trained), _scales(served)
    if theirs.keys() != ours.keys():
        raise Mismatch(f"{SCALES} has not the scales of the modules of the base")
    count = 0
    with (
        untrusted_file.open_regular(trained, follow_links=False) as trained_file,
        untrusted_file.open_regular(served, follow_links=False) as served_file,
    ):
        for name, (start, length) in ours.items():
            begin, size = theirs[name]
            if size != length:
                raise Mismatch(f"{SCALES} has {size} blocks for {name} instead of {length}")
            trained_file.seek(begin)
            served_file.seek(start)
            for at in range(0, length, READ_BYTES):
                size = min(READ_BYTES, length - at)
                left, right = trained_file.read(size), served_file.read(size)
                if left != right:
                    count += sum(map(int.__ne__, left, right))
    return count


def _scales(path: Path) -> dict[str, tuple[int, int]]:
    """Return the place of the scales of each module: offset in the file, and bytes."""
    header, data = tensor_header.read(path)
    return {
        name: (data + start, end - start)
        for name, tensor in header.items()
        if name.endswith(PART)
        for start, end in [tensor["data_offsets"]]
    }
