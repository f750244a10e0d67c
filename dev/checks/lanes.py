"""Lanes: threads that each do a list of works in order, and how long each of them was idle."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from cluster.phases import say, side_by_side

Work = Callable[[], object]


@dataclasses.dataclass(kw_only=True)
class Lane:
    """Works that follow each other. ``ended`` is when the last one did, by the monotonic clock."""

    name: str
    works: Sequence[Work] = ()
    waited: float = 0.0
    ended: float = 0.0

    def run(self) -> None:
        """Do all works; the first error ends the lane."""
        try:
            for work in self.works:
                work()
        finally:
            self.ended = time.monotonic()

    def waiting(self, for_it: Work) -> Work:
        """Return a work of this lane that waits for another lane; that time is idle."""

        def wait() -> None:
            began = time.monotonic()
            for_it()
            self.waited += time.monotonic() - began

        return wait


finished: list[tuple[str, float, float]] = []
"""Name, busy and idle seconds of each lane that has run."""


def run(*lanes: Lane) -> None:
    """Run lanes next to each other to the end; raise the first error after all have ended."""
    began = time.monotonic()
    try:
        side_by_side(*(lane.run for lane in lanes))
    finally:
        ended = time.monotonic()
        for lane in lanes:
            idle = lane.waited + ended - lane.ended
            finished.append((lane.name, ended - began - idle, idle))


def report() -> None:
    """Print the idle time of each lane."""
    if finished:
        say("\nLanes")
    for name, busy, idle in finished:
        say(f"  {name:28} busy {busy:7.1f} s, idle {idle:7.1f} s")
