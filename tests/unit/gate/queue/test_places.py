"""Places are returned, however their requests end."""

import asyncio

import pytest

from finetune_gate.queue.fairness import Fairness
from finetune_gate.queue.places import Places


def places(capacity: int = 1) -> Places:
    return Places(Fairness(max_active=2, capacity=capacity, max_wait=1.0, longest=10))


async def test_the_next_request_enters_when_one_ends() -> None:
    found, order = places(), []

    async def request(number: int) -> None:
        async with found.place("a"):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(request(number) for number in range(5)))
    assert order == list(range(5))
    assert found.pending("a") == 0


async def test_a_request_that_fails_returns_its_place() -> None:
    found = places()
    with pytest.raises(ZeroDivisionError):
        async with found.place("a"):
            raise ZeroDivisionError
    assert found.pending("a") == 0


async def _enter(found: Places) -> None:
    async with found.place("a"):
        await asyncio.Event().wait()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_request_that_is_cancelled_while_another_one_ends(turns: int) -> None:
    """In each order of cancellation and entry, all places are free afterwards."""
    found = places()
    first = asyncio.create_task(_enter(found))
    await asyncio.sleep(0)
    second = asyncio.create_task(_enter(found))
    await asyncio.sleep(0)
    assert found.pending("a") == 2
    first.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert (found.pending("a"), found.waiting()) == (0, 0)


async def test_a_request_that_enters_after_it_was_cancelled_passes_its_place_on() -> None:
    found = places()
    first = asyncio.create_task(_enter(found))
    await asyncio.sleep(0)
    second, third = (asyncio.create_task(_enter(found)) for _ in range(2))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert found.pending("a") == 1, "the third has the place"
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    assert found.pending("a") == 0
