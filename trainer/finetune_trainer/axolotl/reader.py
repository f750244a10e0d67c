"""A configuration whose keys are taken one by one, so that none is passed over in silence."""

from typing import Any

MEANINGLESS = frozenset(
    {
        # Where a process writes, and what it was started with: the job has a volume of its own.
        "output_dir",
        "dataset_prepared_path",
        "base_model_config",
        "model_type",
        "tokenizer_type",
        "tokenizer_use_fast",
        "is_llama_derived_model",
        "is_mistral_derived_model",
        "strict",
        "debug",
        "local_rank",
        "save_safetensors",
        "group_by_length",
        "dataset_num_proc",
        "dataset_processes",
        "gradient_checkpointing_kwargs",
        "auto_resume_from_checkpoints",
        "resume_from_checkpoint",
        "eval_batch_size",
        "eval_sample_packing",
        "eval_table_size",
        "eval_max_new_tokens",
        "shuffle_merged_datasets",
        "logging_dir",
    }
)


class Settings:
    """The keys of one group, and what there is to say about them."""

    def __init__(self, values: dict[str, Any], warnings: list[str], *, at: str = "") -> None:
        """``at`` comes before a key's name in a warning."""
        self._values = {key: value for key, value in values.items() if value is not None}
        self._warnings = warnings
        self.at = at
        self._taken: set[str] = set()

    def take(self, *keys: str) -> Any:
        """Return the first of ``keys`` that is written (None: none is); all count as read."""
        self._taken |= set(keys)
        return next((self._values[key] for key in keys if key in self._values), None)

    def warn(self, key: str, text: str) -> None:
        """Say something about a key."""
        value = self._values.get(key)
        shown = key if value is None or isinstance(value, dict | list) else f"{key}: {_text(value)}"
        self._warnings.append(f"{self.at}{shown}: {text}")

    def drop(self, text: str, *keys: str) -> None:
        """Read keys that have no place in a FineTuneJob, and say so where one is switched on."""
        for key in keys:
            if self.take(key):
                self.warn(key, text)

    def finish(self) -> None:
        """Warn of every key that was not read and says something."""
        for key, value in self._values.items():
            if key not in self._taken | MEANINGLESS and value not in (False, "", [], {}):
                self.warn(key, "does not carry over: a FineTuneJob has no such setting")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
