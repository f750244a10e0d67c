"""Log lines. The module imports no other library."""

import sys
import time

from finetune_api.safety.printable import escaped


def log(text: str) -> None:
    """Write one line to stderr, which is the pod's log. The process masks its stderr.

    Spaces stay, because they align the columns of a table.
    """
    line = f"{time.strftime('%H:%M:%S', time.gmtime())} {escaped(' '.join(text.splitlines()))}"
    print(line, file=sys.stderr, flush=True)
