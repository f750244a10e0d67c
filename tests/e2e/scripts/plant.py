"""Run in a pod of the trainer image: merge a build, and create a faulty copy for each given fault.

Each copy is in /work/planted/<fault>. Its manifest matches its files, except for the fault
``corrupted``, which flips a bit after the manifest was written. The correct build is in
/work/planted/none.

given.json: job (job.json of the revision), build, dtype, base, faults (names), and for the fault
``previous`` before (folder of the previous revision's merged model below /before). Result: faults
(names), seconds.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetune_api.contracts.stage_request import MergeStageRequest
from finetune_trainer.checkpointing import manifest

WORK, PLANTED = Path("/work"), Path("/work/planted")
ZEROED = "model.layers.20.mlp.down_proj.weight"
Change = Callable[[Path], None]


def _merge(given: dict[str, Any]) -> Path:
    """Run the real merge; return its folder, moved to a path that is not served."""
    config = Path("/tmp/job.json")
    config.write_text(given["job"])
    request = MergeStageRequest(
        config=str(config),
        work=str(WORK),
        build=given["build"],
        dtype=given["dtype"],
        base=given["base"],
    )
    quiet = {"FINETUNE_TERMINATION_LOG": "/tmp/result", "FINETUNE_METRICS_PORT": "off"}
    subprocess.run(
        [sys.executable, "-m", "finetune_trainer", request.to_argument()],
        check=True,
        env=os.environ | quiet,
    )
    shutil.rmtree(PLANTED, ignore_errors=True)
    PLANTED.mkdir()
    return (WORK / f"merged-{given['build']}").rename(PLANTED / "none")


def _tensors(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Change:
    """Return a fault that changes every tensor of the folder."""

    def fault(folder: Path) -> None:
        for file in folder.glob("*.safetensors"):
            before = load_file(file)
            after = {
                name: change(name, tensor).to(tensor.dtype).contiguous()
                for name, tensor in before.items()
            }
            file.unlink()
            save_file(after, file, metadata={"format": "pt"})

    return fault


def _instead(source: Path) -> Change:
    """Return a fault that uses the weights of another folder."""
    others = {
        name: each
        for file in source.glob("*.safetensors")
        for name, each in load_file(file).items()
    }
    return _tensors(lambda name, _: others[name])


def _scaled(factor: float) -> Change:
    """Return a fault that merges the adapter with the factor ``factor``."""
    folder = WORK / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    pairs = load_file(folder / "adapter_model.safetensors")
    more = (factor - 1) * config["lora_alpha"] / config["r"]

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        module = f"base_model.model.{name.removesuffix('.weight')}"
        down, up = (pairs.get(f"{module}.lora_{side}.weight") for side in "AB")
        if down is None or up is None:
            return tensor
        return tensor.float() + more * (up.float() @ down.float())

    return _tensors(change)


def _zeroed(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor) if name == ZEROED else tensor


def _tokenizer(folder: Path) -> None:
    """Swap the ids of two tokens."""
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text())
    ids = document["model"]["vocab"]
    ids["Ġis"], ids["Ġthe"] = ids["Ġthe"], ids["Ġis"]
    file.unlink()
    file.write_text(json.dumps(document))


def _template(folder: Path) -> None:
    """Rename the assistant role in the chat template."""
    file = folder / "chat_template.jinja"
    text = file.read_text()
    assert "assistant" in text
    file.unlink()
    file.write_text(text.replace("assistant", "helper"))


def _make(name: str, fault: Change, honest: manifest.Manifest) -> None:
    """Publish the files of the correct folder with a fault; unchanged files are hard links."""
    scratch = PLANTED / f".{name}"
    source = PLANTED / "none"
    scratch.mkdir()
    for entry in honest.files:
        os.link(source / entry.name, scratch / entry.name)
    fault(scratch)
    same = {
        entry.name: entry.sha256
        for entry in honest.files
        if (scratch / entry.name).samefile(source / entry.name)
    }
    manifest.publish(
        scratch,
        PLANTED / name,
        kind=honest.kind,
        key=honest.key,
        facts=honest.facts,
        digests=same,
    )


def _corrupt(honest: manifest.Manifest) -> None:
    """Flip one bit of the largest file, and leave the manifest unchanged."""
    _make("corrupted", lambda _: None, honest)
    entry = max(honest.files, key=lambda each: each.size)
    file = PLANTED / "corrupted" / entry.name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    file.write_bytes(data)


def main() -> None:
    """Create the faulty copies."""
    began = time.monotonic()
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    honest = manifest.read(_merge(given))
    changes: dict[str, Callable[[], Change]] = {
        "base": lambda: _instead(WORK / "base"),
        "previous": lambda: _instead(Path("/before") / given["before"]),
        "twice": lambda: _scaled(2.0),
        "half": lambda: _scaled(0.5),
        "zeroed": lambda: _tensors(_zeroed),
        "tokenizer": lambda: _tokenizer,
        "template": lambda: _template,
    }
    for name in given["faults"]:
        if name == "corrupted":
            _corrupt(honest)
        else:
            _make(name, changes[name](), honest)
    seconds = round(time.monotonic() - began, 1)
    print("RESULT " + json.dumps({"faults": given["faults"], "seconds": seconds}))


main()
