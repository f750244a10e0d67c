"""Root mean square values and their sampling errors. Pure."""

import math
from collections.abc import Sequence

STANDARD_ERRORS = 3.0


def rms(values: Sequence[float]) -> float:
    """Return the root mean square; 0 for no values."""
    return math.sqrt(_moment(values, 2))


def chance(values: Sequence[float]) -> float:
    """Return the factor by which chance can raise the ratio of two rms values of such samples.

    Both have the relative error of ``values``; three standard errors of their ratio are allowed.
    """
    return 1 + STANDARD_ERRORS * math.sqrt(2) * relative_error(values)


def relative_error(values: Sequence[float]) -> float:
    """Return the relative standard error of ``rms(values)``, from their own fourth moment.

    By the delta method: var(rms) / rms² = (m4 / m2² - 1) / 4n.
    """
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0:
        return 0.0
    # In units of the largest, so that no power of a tiny value vanishes.
    scaled = [value / largest for value in values]
    kurtosis = _moment(scaled, 4) / _moment(scaled, 2) ** 2
    return math.sqrt(max(0.0, kurtosis - 1) / (4 * len(values)))


def _moment(values: Sequence[float], order: int) -> float:
    return math.fsum(value**order for value in values) / len(values) if values else 0.0
