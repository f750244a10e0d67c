"""Log lines. The module imports no other library."""

import sys
import time

from finetune_api.safety.printable import printable


def log(text: str) -> None:
    """Write one line to stderr, which is the pod's log. The process masks its stderr."""
    line = f"{time.strftime('%H:%M:%S', time.gmtime())} {printable(text)}"
    print(line, file=sys.stderr, flush=True)
