"""Lanes: threads that each run a list of tasks in order, and the idle time of each lane."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from cluster.phases import say, side_by_side

Work = Callable[[], object]


@dataclasses.dataclass(kw_only=True)
class Lane:
    """Tasks that run one after another. ``ended``: end of the last task, by the monotonic clock."""

    name: str
    works: Sequence[Work] = ()
    waited: float = 0.0
    ended: float = 0.0

    def run(self) -> None:
        """Run all tasks; the first error ends the lane."""
        try:
            for work in self.works:
                work()
        finally:
            self.ended = time.monotonic()

    def waiting(self, for_it: Work) -> Work:
        """Return a task that waits for another lane; the waiting time counts as idle."""

        def wait() -> None:
            began = time.monotonic()
            for_it()
            self.waited += time.monotonic() - began

        return wait


finished: list[tuple[str, float, float]] = []
"""Name, busy seconds and idle seconds of each completed lane."""


def run(*lanes: Lane) -> None:
    """Run lanes in parallel; after all have ended, raise the first error."""
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
