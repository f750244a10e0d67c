"""The repositories that the local hub creates."""

import json
import struct
from pathlib import Path

import pytest

from hub import content

NAMES = (
    "model.embed_tokens.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.layers.2.mlp.up_proj.weight",
    "model.layers.12.mlp.up_proj.weight",
    "model.norm.weight",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose tensors consist of their number in ``NAMES``, with different sizes."""
    folder = tmp_path / "model"
    folder.mkdir()
    data = [bytes([number]) * 2 * (number + 1) for number in range(len(NAMES))]
    header, end = {"__metadata__": {"format": "pt", "more": "text"}}, 0
    for name, each in zip(NAMES, data, strict=True):
        begin, end = end, end + len(each)
        header[name] = {"dtype": "F16", "shape": [len(each) // 2], "data_offsets": [begin, end]}  # type: ignore[dict-item]
    text = json.dumps(header).encode()
    weights = struct.pack("<Q", len(text)) + text + b"".join(data)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text('{"num_hidden_layers": 13, "hidden_size": 8}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / ".recipe").write_text("key")
    return folder


def test_shallow_model_has_the_first_layers_and_everything_else(
    model: Path, tmp_path: Path
) -> None:
    from safetensors import safe_open

    shallow = tmp_path / "shallow"
    content.write_shallow_model(model, shallow)
    assert {file.name for file in shallow.iterdir()} == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
    }
    assert json.loads((shallow / "config.json").read_text()) == {
        "num_hidden_layers": content.LAYERS,
        "hidden_size": 8,
    }
    kept = {0, 1, 2, 5}
    with safe_open(shallow / "model.safetensors", framework="numpy") as weights:
        assert set(weights.keys()) == {NAMES[number] for number in kept}
        for number in kept:
            found = weights.get_tensor(NAMES[number])
            assert found.tobytes() == bytes([number]) * 2 * (number + 1)
