"""Time limits of the product, measured on a machine whose cores other processes use, too."""

from collections.abc import Callable
from pathlib import Path

ATTEMPTS = 5


def seconds_without_core(pid: int | str = "self") -> float:
    """Return the seconds in which the main thread of a process waited for a core; 0 if unknown."""
    times = Path(f"/proc/{pid}/schedstat")
    return int(times.read_text().split()[1]) / 1e9 if times.exists() else 0.0


def fastest(measure: Callable[[], float], *, limit: float, attempts: int = ATTEMPTS) -> float:
    """Return the time of the first attempt below the limit, or of the fastest attempt.

    Other processes delay some attempts. A product that waits or blocks delays each of them.
    """
    times: list[float] = []
    while not times or (min(times) >= limit and len(times) < attempts):
        times.append(measure())
    return min(times)
