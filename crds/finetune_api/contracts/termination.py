"""Writing the termination message of a container, which the operator reads from the pod."""

import os
from collections.abc import Callable
from pathlib import Path

from finetune_api.contracts.redaction import mask_all
from finetune_api.contracts.result import Result

PATH_VARIABLE = "FINETUNE_TERMINATION_LOG"
DEFAULT_PATH = "/dev/termination-log"


def write(result: Result, log: Callable[[str], None]) -> None:
    """Write the result without credentials; log it if there is no such file, as outside a pod."""
    # Stage, outcome and reason are words of this project, even if a credential has the same value.
    parts = ("message", "warnings", "artifacts")
    masked = result.model_copy(update={part: mask_all(getattr(result, part)) for part in parts})
    path = Path(os.environ.get(PATH_VARIABLE, DEFAULT_PATH))
    try:
        path.write_text(masked.to_message())
    except OSError as error:
        log(f"the result cannot be written to {path} ({error}): {masked.to_message()}")
