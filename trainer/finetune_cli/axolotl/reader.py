"""Reads a configuration key by key, so that no key is ignored without a warning."""

from typing import Any

MEANINGLESS = frozenset(
    {
        # Paths and process settings of Axolotl, which a job on its own volume does not need.
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
    """The keys of one mapping; conversions and warnings are recorded."""

    def __init__(self, values: dict[str, Any], warnings: list[str], *, at: str = "") -> None:
        """``at`` is the prefix of a key in warnings, such as ``datasets[0].``."""
        self._values = {key: value for key, value in values.items() if value is not None}
        self._warnings = warnings
        self.at = at
        self._taken: set[str] = set()

    def take(self, *keys: str) -> Any:
        """Return the value of the first of ``keys`` that is set, or None; mark all as read."""
        self._taken |= set(keys)
        return next((self._values[key] for key in keys if key in self._values), None)

    def warn(self, key: str, text: str) -> None:
        """Add a warning about a key, with its value."""
        value = self._values.get(key)
        shown = key if value is None or isinstance(value, dict | list) else f"{key}: {_text(value)}"
        self._warnings.append(f"{self.at}{shown}: {text}")

    def drop(self, text: str, *keys: str) -> None:
        """Mark unsupported keys as read; warn about each that is set to a true value."""
        for key in keys:
            if self.take(key):
                self.warn(key, text)

    def finish(self) -> None:
        """Warn about each key that was not read and has a value."""
        for key, value in self._values.items():
            if key not in self._taken | MEANINGLESS and value not in (False, "", [], {}):
                self.warn(key, "is ignored: a FineTuneJob has no such setting")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
