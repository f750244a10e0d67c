"""Writes config.json of the merged model: that of the base, with only the dtype changed.

For a multimodal base, it is the configuration of the text model, which is all that is merged.
"""

import json
import re
from pathlib import Path
from typing import Any

from finetune_trainer.errors import NotMergeable
from finetune_trainer.models import text_model
from finetune_trainer.volume.files import read_json


def write(source: Path, target: Path, dtype: str) -> None:
    """Write config.json with another dtype and no other change."""
    config = read_json(source)
    text = source.read_text(encoding="utf-8")
    keys = [key for key in ("dtype", "torch_dtype") if key in config]
    nested = [name for name, value in config.items() if isinstance(value, dict)]
    if keys and all(isinstance(config[key], str) for key in keys) and not nested:
        for key in keys:
            pattern = rf'("{key}"\s*:\s*)"{re.escape(config[key])}"'
            text = re.sub(pattern, rf'\g<1>"{dtype}"', text)
    else:
        text = json.dumps(with_dtype(config, dtype), indent=2, ensure_ascii=False) + "\n"
    if json.loads(text) != with_dtype(config, dtype):
        raise NotMergeable(
            f"the dtype in config.json of the base cannot be set to {dtype}: set merge.dtype to "
            "the dtype of the base, or choose another base"
        )
    target.write_text(text, encoding="utf-8")


def write_text_model(base: Path, target: Path, dtype: str) -> None:
    """Write config.json of the text model of a multimodal base."""
    document = text_model.load_config(base).to_diff_dict() | {"dtype": dtype}
    target.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return a configuration with its dtype set, under the key that it uses (also nested)."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    changed = dict(config)
    for key in keys:
        changed[key] = dtype
    for name, value in config.items():
        if isinstance(value, dict) and ("dtype" in value or "torch_dtype" in value):
            changed[name] = with_dtype(value, dtype)
    return changed
