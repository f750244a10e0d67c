"""The loss history of a training: how it is thinned, and where the trainer serves it.

The trainer serves at most ``SERVED_POINTS`` of each series on the port of its metrics while it
trains. Its result has fewer, in at most ``RECORDED_BYTES`` of the termination message, and the
operator keeps those in the ledger. Equal histories give equal points.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from finetune_api.base import MAX_NUMBER
from finetune_api.v1alpha1.status.loss_history import MOST_POINTS, LossSeries, Name

PATH = "/loss-history"
SERVED_POINTS = MOST_POINTS
RECORDED_POINTS = 60
RECORDED_BYTES = 1500
SERVED_BYTES = 64 * 1024
"""More than what the trainer serves; a client reads no more."""
_SHARES: Mapping[Name, float] = {
    "loss": 1.0,
    "evalLoss": 1.0,
    "learningRate": 0.3,
    "tokensPerSecond": 0.3,
}
"""Share of the recorded points: rate and speed change less than losses."""
_DIGITS = 4
_Unchecked = dict[Name, Annotated[list[tuple[int, float]], Field(max_length=MOST_POINTS)]]
"""Series with any number: points that a status cannot have are left out one by one."""
_ADAPTER: TypeAdapter[_Unchecked] = TypeAdapter(_Unchecked)
Series = Mapping[str, Sequence[tuple[int, float]]]


def served(series: Series) -> LossSeries:
    """Return the points that the trainer serves. Series of other names are left out."""
    return {name: thinned(points, SERVED_POINTS) for name, points in _present(series).items()}


def recorded(series: Series) -> LossSeries | None:
    """Return the points of the result, as many as fit; None without a point."""
    present = _present(series)
    most = RECORDED_POINTS
    while True:
        points = {
            name: thinned(all_points, max(round(most * _SHARES[name]), 1))
            for name, all_points in present.items()
        }
        if len(text(points)) <= RECORDED_BYTES:
            return points or None
        most -= 1


def text(points: LossSeries) -> str:
    """Return points as JSON, as a result has them."""
    return json.dumps(points)


def parsed(content: bytes | str) -> LossSeries | None:
    """Return the points in a JSON text, which anybody may have written; None if it has others."""
    try:
        points = _ADAPTER.validate_json(content)
    except ValidationError:
        return None
    return {name: _bounded(series) for name, series in points.items()}


def thinned(points: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """Return at most so many points, evenly spaced, with the first and the last one."""
    if len(points) <= most:
        return list(points)
    if most == 1:
        return [points[-1]]
    last = len(points) - 1
    return [points[round(at * last / (most - 1))] for at in range(most)]


def _present(series: Series) -> LossSeries:
    """Return the series with a point that a status can have, with all such points."""
    bounded = {name: _bounded(series.get(name, ())) for name in _SHARES}
    return {name: points for name, points in bounded.items() if points}


def _bounded(points: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the rounded points that a status can have, without those of a diverged training."""
    # The training may append to the list meanwhile.
    return [
        (step, float(f"{value:.{_DIGITS}g}"))
        for step, value in list(points)
        if 0 <= step <= MAX_NUMBER and abs(value) <= MAX_NUMBER
    ]
