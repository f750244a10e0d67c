"""Log lines, and how they show a duration. It imports no other library."""

import math
import sys
import time

from finetune_api.contracts.printable import printable


def log(text: str) -> None:
    """Write one line to stderr, which is the pod's log. The process masks its stderr."""
    line = f"{time.strftime('%H:%M:%S', time.gmtime())} {printable(text)}"
    print(line, file=sys.stderr, flush=True)


def duration(seconds: float | None) -> str:
    """Format seconds for people: 1h02m, 3m20s, 15s."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
