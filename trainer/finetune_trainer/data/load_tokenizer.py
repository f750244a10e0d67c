"""The base's tokenizer, loaded from the volume and without any code of the repository."""

from pathlib import Path
from typing import Any

from finetune_trainer.errors import InvalidSpec
from finetune_trainer.runtime.files import read_json


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in ``folder``."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, ImportError, KeyError) as error:
        text = " ".join(str(error).split())
        if "trust_remote_code" in text:
            text = (
                "tokenizer_config.json asks for the repository's own Python code (auto_map), which "
                "is never run"
            )
        raise InvalidSpec(
            f"the model's tokenizer cannot be loaded: {text[:300]}; choose a repository with a "
            "tokenizer.json"
        ) from error


def stop_ids(tokenizer: Any, folder: Path) -> list[int]:
    """Token ids at which a server ends an answer: the tokenizer's and the generation config's."""
    found = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            ids = read_json(folder / name).get("eos_token_id")
            found |= {ids} if isinstance(ids, int) else set(ids or ())
    return sorted(found)
