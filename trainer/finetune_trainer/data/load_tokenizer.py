"""Loads the tokenizer of the base from the volume, without Python code of the repository."""

from pathlib import Path
from typing import Any

from finetune_api.safety.redaction import one_line
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.volume.files import read_json


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in ``folder``. Raises InvalidSpec."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        # Only files of the repository are read: whatever the library raises is due to them.
        text = one_line(error, 300)
        if "trust_remote_code" in str(error):
            text = (
                "tokenizer_config.json requires Python code of the repository (auto_map), but "
                "the trainer never runs code of a repository"
            )
        raise InvalidSpec(
            f"the model's tokenizer cannot be loaded: {text}; choose a repository with a "
            "tokenizer.json"
        ) from error


def stop_ids(tokenizer: Any, folder: Path) -> list[int]:
    """Return the token ids that end an answer, from tokenizer and generation configuration."""
    stops = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            ids = read_json(folder / name).get("eos_token_id")
            stops |= {ids} if isinstance(ids, int) else set(ids or ())
    return sorted(stops)
