"""Several short rows in one sequence, and how many optimizer steps a dataset makes.

Best-fit decreasing: long rows first, each into the fullest sequence that still has room. Rows are
never split and never share attention; the trainer restarts positions at each row.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence

STEPS_WORTH_PACKING = 200
"""Steps that must remain for packing to pay: fewer updates learn less than the time it saves."""
FEW_STEPS = 20
"""Below this many steps a run seldom learns anything."""


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return groups of row numbers whose lengths add up to at most ``capacity``.

    Deterministic; within a group and among groups the rows keep a fixed order.
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
    """Optimizer steps of a run over ``sequences`` with ``batch`` of them a step."""
    if max_steps is not None:
        return max_steps
    assert epochs is not None
    return max(1, math.ceil(epochs * math.ceil(sequences / batch)))
