"""A test moves the clock of the API server, by which the operator dates usage and periods.

The times of pods, which the API server and the kubelet write, move along. This is no option of the
operator: the code below runs in its process before the operator does.
"""

from pathlib import Path

_CODE = """
from dataclasses import replace
from pathlib import Path
from finetune_operator.kube.server_clock import ServerClock
from finetune_operator.snapshot import gpu_usage

_now, _pod_use = ServerClock.now, gpu_usage.pod_use

def _ahead():
    return int(Path({file!r}).read_text())

def _moved(time, seconds):
    return None if time is None else time + seconds

def _moved_use(*given, removed=None, **how):
    ahead = _ahead()
    use = _pod_use(*given, removed=_moved(removed, -ahead), **how)
    return use and replace(use, start=use.start + ahead, end=_moved(use.end, ahead))

ServerClock.now = lambda clock: _now(clock) + _ahead()
gpu_usage.pod_use = _moved_use
"""


def prelude(file: Path) -> str:
    """Return Python code that adds the seconds in a file to the clock, each time it is read."""
    return _CODE.format(file=str(file))
