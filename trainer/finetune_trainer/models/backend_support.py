"""Checks that the trainer image has a backend, and that the backend supports the model family."""

import importlib.util

from finetune_trainer.errors import InvalidSpec


def refuse_absent(name: str) -> None:
    """Raise InvalidSpec if this image does not contain the backend. Imports no library."""
    if name == "unsloth" and importlib.util.find_spec("unsloth") is None:
        raise InvalidSpec(
            "training.advanced.backend is unsloth, which this trainer image does not contain: set "
            "it to trl, or use an image that was built with --build-arg UNSLOTH=yes"
        )


UNSLOTH_FAMILIES = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "llama",
        "mistral",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    }
)
"""Values of ``model_type`` in config.json with which the tests train on Unsloth. Unsloth patches
model classes as it loads them, so a family that was never tested may train wrongly."""


def refuse_family(name: str, family: str, *, source: str) -> None:
    """Raise InvalidSpec if the backend is not tested with a model family."""
    if name == "unsloth" and family not in UNSLOTH_FAMILIES:
        raise InvalidSpec(
            f"model {source} is of family {family}, which is not tested with "
            "training.advanced.backend unsloth (tested families: "
            f"{', '.join(sorted(UNSLOTH_FAMILIES))}): set training.advanced.backend to trl"
        )
