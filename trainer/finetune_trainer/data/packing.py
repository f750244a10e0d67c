"""Packs short rows into sequences, and counts optimizer steps.

Best-fit decreasing: rows are placed from longest to shortest, each into the fullest sequence with
enough room. Rows are never split and do not attend to each other; positions restart at each row.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence

STEPS_WORTH_PACKING = 200
"""Least number of steps with which ``packing: auto`` packs: fewer updates learn less."""
FEW_STEPS = 20
"""A run with fewer steps gets a warning."""


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return groups of row numbers whose total length is at most ``capacity``.

    The result is deterministic, including the order of groups and rows.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    groups: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for row in order:
        at = bisect_left(room, (lengths[row], -1))
        if at == len(room):
            groups.append([row])
            left, group = capacity - lengths[row], len(groups) - 1
        else:
            left, group = room.pop(at)
            groups[group].append(row)
            left -= lengths[row]
        if left > 0:
            insort(room, (left, group))
    return groups


def steps_of(sequences: int, *, batch: int, epochs: float | None, max_steps: int | None) -> int:
    """Return the optimizer steps of a run; ``batch`` is the number of sequences per step."""
    if max_steps is not None:
        return max_steps
    assert epochs is not None
    return max(1, math.ceil(epochs * math.ceil(sequences / batch)))
