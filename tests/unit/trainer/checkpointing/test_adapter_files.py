"""Names in the files of an adapter."""

import json
import struct
from pathlib import Path

from finetune_trainer.checkpointing import adapter_files


def test_adapted_modules_are_named_once_and_without_their_path(tmp_path: Path) -> None:
    tensors = {
        f"base_model.model.model.layers.{layer}.{module}.lora_{part}.weight": {
            "dtype": "F32",
            "shape": [0],
            "data_offsets": [0, 0],
        }
        for layer in range(2)
        for module in ("self_attn.q_proj", "mlp.down_proj")
        for part in "AB"
    }
    header = json.dumps(tensors).encode()
    (tmp_path / adapter_files.WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)
    assert adapter_files.adapted_modules(tmp_path) == ["down_proj", "q_proj"]
