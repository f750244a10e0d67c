"""Which backend this image has, and which model families each backend trains."""

import importlib.util

from finetune_trainer.errors import InvalidSpec


def refuse_absent(name: str) -> None:
    """Raise InvalidSpec for a backend that this image does not have. Loads no library."""
    if name == "unsloth" and importlib.util.find_spec("unsloth") is None:
        raise InvalidSpec(
            "training.advanced.backend is unsloth, which this trainer image does not have: set it "
            "to trl, or use an image that was built with --build-arg UNSLOTH=yes"
        )


ON_UNSLOTH = frozenset(
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
"""Values of ``model_type`` in config.json that Unsloth is tested with. It rewrites the classes of a
model as it loads them; what comes of one that was never tried is not known."""


def refuse_family(name: str, family: str, *, source: str) -> None:
    """Raise InvalidSpec for a family that a backend is not known to train."""
    if name == "unsloth" and family not in ON_UNSLOTH:
        raise InvalidSpec(
            f"model {source} is of the family {family}, which training.advanced.backend unsloth is "
            f"not known to train (it is tested with {', '.join(sorted(ON_UNSLOTH))}): set "
            "training.advanced.backend to trl"
        )
