"""Writing the termination message of a container, which the operator reads from the pod."""

import os
from collections.abc import Callable
from pathlib import Path

from finetune_api.contracts.result import Result
from finetune_api.safety.redaction import mask_all

PATH_VARIABLE = "FINETUNE_TERMINATION_LOG"
DEFAULT_PATH = "/dev/termination-log"


def write(result: Result, log: Callable[[str], None]) -> None:
    """Write the result without credentials; log it if there is no such file, as outside a pod."""
    message = result.to_message(mask_all)
    path = Path(os.environ.get(PATH_VARIABLE, DEFAULT_PATH))
    try:
        path.write_text(message)
    except OSError as error:
        log(f"the result cannot be written to {path} ({error}): {message}")
