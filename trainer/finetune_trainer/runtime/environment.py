"""Environment variables that libraries read when they are imported."""

import os

from finetune_trainer.runtime import threads

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def configure() -> None:
    """Silence the libraries and set the number of math threads, unless the user has set them."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    threads.configure(os.environ)
