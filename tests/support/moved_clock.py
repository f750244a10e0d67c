"""A test moves the clock of the API server, by which the operator dates usage and periods.

This is no option of the operator: the code below runs in its process before the operator does.
"""

from pathlib import Path

_CODE = """
from pathlib import Path
from finetune_operator.kube.server_clock import ServerClock
_now = ServerClock.now
ServerClock.now = lambda clock: _now(clock) + int(Path({file!r}).read_text())
"""


def prelude(file: Path) -> str:
    """Return Python code that adds the seconds in a file to the clock, each time it is read."""
    return _CODE.format(file=str(file))
