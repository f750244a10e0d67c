"""How operator, trainer and command-line tool write a duration for people."""

import math


def duration(seconds: float | None) -> str:
    """Return a duration with its two largest units: ``3d04h``, ``1h02m``, ``4m10s`` or ``15s``.

    seconds: not negative; None (unknown) and infinity result in ``?``.
    """
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02d}h"
    if hours:
        return f"{hour}h{minute:02d}m"
    return f"{minute}m{second:02d}s" if minutes else f"{second}s"


def estimated(seconds: float) -> str:
    """Return an estimated duration, whose seconds mean nothing if it is short."""
    return "less than a minute" if seconds < 60 else duration(seconds)
