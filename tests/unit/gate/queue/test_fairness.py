"""Admission: no name waits for long, however busy the others are. Time is simulated."""

import heapq
import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_gate.errors import Busy
from finetune_gate.queue.fairness import BASE, Fairness, Name, Ticket

MAX_WAIT = 2.0
LONGEST = 1000


def fairness(*, max_active: int = 2, capacity: int = 8, longest: int = LONGEST) -> Fairness:
    return Fairness(max_active=max_active, capacity=capacity, max_wait=MAX_WAIT, longest=longest)


@dataclass
class Simulation:
    """Requests of some names on an engine, in simulated time."""

    fairness: Fairness
    seconds: float
    """Longest duration of a request; the others are different, down to half of it."""
    now: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    waits: dict[Ticket, float] = field(default_factory=dict)
    """Time that each request waited, by its ticket."""
    _arrived: dict[Ticket, float] = field(default_factory=dict)
    _names: dict[Ticket, Name] = field(default_factory=dict)
    _ends: list[tuple[float, int, Ticket]] = field(default_factory=list)
    _count: "itertools.count[int]" = field(default_factory=itertools.count)

    def add(self, name: Name) -> int:
        ticket = next(self._count)
        self._arrived[ticket], self._names[ticket] = self.now, name
        self._enter(self.fairness.add(name, ticket, self.now))
        return ticket

    def advance(self, until: float, refill: tuple[Name, ...] = ()) -> None:
        """Let requests end; each end of a name in ``refill`` is followed by another request."""
        while self._ends and self._ends[0][0] <= until:
            self.now, _, ticket = heapq.heappop(self._ends)
            name = self._names[ticket]
            if name in refill:
                self.add(name)
            self._enter(self.fairness.end(name, self.now))
        self.now = until

    def _enter(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            self.waits[ticket] = self.now - self._arrived[ticket]
            seconds = self.seconds * self.chance.uniform(0.5, 1)
            heapq.heappush(self._ends, (self.now + seconds, next(self._count), ticket))


def test_requests_enter_at_once_while_there_is_room() -> None:
    found = fairness()
    assert found.add("a", 1, 0.0) == [1]
    assert found.add("b", 2, 0.0) == [2]
    assert found.add("a", 3, 0.0) == [3]


def test_at_most_max_active_names_run() -> None:
    found = fairness(max_active=1)
    assert found.add("a", 1, 0.0) == [1]
    assert found.add("b", 2, 0.0) == []
    assert found.add("a", 3, 0.0) == [3], "a name that holds a place is refilled"
    assert found.end("a", 1.0) == []
    assert found.end("a", 1.0) == [2]


def test_requests_for_the_base_need_no_place_of_an_adapter() -> None:
    found = fairness(max_active=1)
    assert found.add("a", 1, 0.0) == [1]
    assert found.add(BASE, 2, 0.0) == [2]
    assert found.end("a", 1.0) == []
    assert found.add("b", 3, 1.0) == [3]


def test_callers_of_a_base_delay_neither_proofs_nor_those_of_another_base() -> None:
    found = fairness(max_active=1, capacity=3)
    assert found.add("a", 0, 0.0) == [0]
    callers = f"{BASE}busy-base"
    assert [found.add(callers, ticket, 0.0) for ticket in (1, 2, 3, 4)] == [[1], [2], [], []]
    assert found.add(BASE, 5, 0.0) == found.add(f"{BASE}quiet-base", 6, 0.0) == []
    assert found.end(callers, 1.0) + found.end(callers, 1.0) == [5, 6]


def test_an_adapter_and_its_base_share_the_places_of_one_name() -> None:
    found = fairness(capacity=4)
    assert [found.add("a", ticket, 0.0) for ticket in (0, 1)] == [[0], [1]]
    assert found.add("b", 2, 0.0) == [2]
    assert found.add("c", 3, 0.0) == []
    assert found.add(f"{BASE}a", 4, 0.0) == [4]
    assert found.add(f"{BASE}a", 5, 0.0) == found.add("b", 6, 1.0) == []
    assert found.end("a", 2.0) == [6], "two requests of a run still, and one of b"


def test_a_free_place_goes_to_the_name_with_the_fewest_requests() -> None:
    found = fairness(capacity=3)
    for ticket in range(6):
        found.add("busy", ticket, 0.0)
    assert found.add("quiet", 6, 0.0) == []
    assert found.end("busy", 1.0) == [6]


def test_a_long_wait_stops_the_longest_holder() -> None:
    found = fairness(max_active=2)
    found.add("first", 1, 0.0)
    found.add("second", 2, 0.5)
    found.add("third", 3, 1.0)
    assert found.add("first", 4, 1.0 + MAX_WAIT) == [4]
    assert found.add("first", 5, 1.1 + MAX_WAIT) == [], "its admission is stopped"
    assert found.add("second", 6, 1.1 + MAX_WAIT) == [6], "only that of one name"
    assert found.end("first", 4.0) == []
    assert found.end("first", 4.0) == [3]
    assert found.end("second", 5.0) == []
    assert found.end("second", 5.0) == [5], "the stopped name is next"


def test_a_caller_that_leaves_the_queue_is_forgotten() -> None:
    found = fairness(max_active=1)
    found.add("a", 1, 0.0)
    found.add("b", 2, 0.0)
    assert found.remove("b", 2, 1.0) == []
    assert found.pending("b") == 0
    assert found.end("a", 1.0) == []
    assert found.waiting() == 0


def test_a_name_that_leaves_stops_nobody() -> None:
    found = fairness(max_active=1)
    found.add("a", 1, 0.0)
    found.add("b", 2, 0.0)
    assert found.add("a", 3, 1.0 + MAX_WAIT) == []
    assert found.remove("b", 2, 1.0 + MAX_WAIT) == [3]


def test_a_full_queue_is_busy() -> None:
    found = fairness(capacity=1, longest=2)
    for ticket in range(3):
        found.add("a", ticket, 0.0)
    with pytest.raises(Busy, match="2 requests"):
        found.add("a", 3, 0.0)
    assert found.pending("a") == 3


def test_a_third_name_next_to_two_that_saturate_waits_for_max_wait_and_one_generation() -> None:
    seconds = 1.0
    simulation = Simulation(fairness(max_active=2, capacity=8), seconds=seconds)
    for _ in range(40):
        simulation.add("a")
        simulation.add("b")
    third = []
    for step in range(1000):
        simulation.advance(step * 0.37, refill=("a", "b"))
        third.append(simulation.add("c"))
    simulation.advance(1000)
    waits = sorted(simulation.waits[ticket] for ticket in third)
    assert len(waits) == 1000
    assert waits[989] <= MAX_WAIT + seconds
    assert waits[-1] <= MAX_WAIT + 2 * seconds


def test_names_that_wait_get_their_turn_in_order() -> None:
    simulation = Simulation(fairness(max_active=1, capacity=4), seconds=1.0)
    for _ in range(20):
        simulation.add("a")
    others = [simulation.add(name) for name in "bcdef"]
    simulation.advance(100, refill=("a",))
    waits = [simulation.waits[ticket] for ticket in others]
    assert waits == sorted(waits)
    assert waits[-1] <= len(others) * (MAX_WAIT + 1.0) + 1.0


NAMES = [*"abcd", BASE, f"{BASE}a"]
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "end", "leave"]), st.sampled_from(NAMES), st.floats(0, 3)),
    max_size=60,
)


@given(operations=OPERATIONS, max_active=st.integers(1, 3), capacity=st.integers(1, 4))
def test_laws(operations: list[tuple[str, str, float]], max_active: int, capacity: int) -> None:
    """Limits hold, nothing is lost, and no place is free while a name could use it."""
    found = fairness(max_active=max_active, capacity=capacity)
    running: dict[int, str] = {}
    waiting: dict[int, str] = {}
    now, tickets = 0.0, itertools.count()
    for operation, name, seconds in operations:
        now += seconds
        if operation == "add":
            ticket = next(tickets)
            waiting[ticket] = name
            entered = found.add(name, ticket, now)
        elif operation == "end" and name in running.values():
            ticket = next(each for each, owner in running.items() if owner == name)
            del running[ticket]
            entered = found.end(name, now)
        elif operation == "leave" and name in waiting.values():
            ticket = next(each for each, owner in waiting.items() if owner == name)
            del waiting[ticket]
            entered = found.remove(name, ticket, now)
        else:
            continue
        for each in entered:
            assert isinstance(each, int)
            running[each] = waiting.pop(each)
        assert len(running) <= capacity
        assert len({name for name in running.values() if BASE not in name}) <= max_active
        assert found.waiting() == len(waiting)
        if waiting:
            assert running, "an idle engine never lets a request wait"
    while running or waiting:
        now += 1
        ticket = next(iter(running))
        for each in found.end(running.pop(ticket), now):
            assert isinstance(each, int)
            running[each] = waiting.pop(each)
