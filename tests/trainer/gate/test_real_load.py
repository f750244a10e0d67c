"""Callers of a real vLLM behind the gate: one that leaves, and names that saturate it.

It needs VLLM_PYTHON, as ``test_real_vllm.py`` does. tests/security/test_shared_endpoint.py has the
same with a fake vLLM.
"""

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support.gate import gate as gates
from tests.support.gate.gate import Gate, connected
from tests.support.gate.real_vllm import add, endpoint
from tests.support.real_vllm import MARKS, START_SECONDS

pytestmark = MARKS
LONG, BOUNDED, MAX_WAIT = 900, 64, 1.0
"""Tokens of an answer that is not waited for, and of one that is; seconds."""
NAMES = ("first", "second", "third")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a vLLM that starts."""
    monkeypatch.setattr(gates, "PATIENCE", START_SECONDS)


async def metric(gate: Gate, pattern: str) -> float:
    """Return the sum of the samples of vLLM whose lines match a pattern."""
    connector = aiohttp.UnixConnector(path=str(gate.vllm.socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://vllm/metrics") as response,
    ):
        text = await response.text()
    lines = (line for line in text.splitlines() if re.match(pattern, line))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_a_caller_that_leaves_is_aborted_within_a_second(tmp_path: Path) -> None:
    generated, running = "vllm:generation_tokens_total", "vllm:num_requests_running"
    async with endpoint(tmp_path) as gate:

        async def runs() -> bool:
            return bool(await metric(gate, running))

        async def is_idle() -> bool:
            return not await runs()

        await gate.serves(add(gate.claim, "first", 1))
        for number, stream in enumerate((True, False, True), start=1):
            before = await metric(gate, generated)
            fields: dict[str, Any] = {"max_tokens": LONG, "ignore_eos": True, "stream": stream}
            caller = connected(gate, {"model": "first", "prompt": "x", **fields})
            await gate.is_true(runs)
            await asyncio.sleep(0.2)
            caller.close()
            left = time.monotonic()
            await gate.is_true(is_idle)
            seconds = time.monotonic() - left
            print(f"request {number}: aborted after {1000 * seconds:.0f} ms")
            assert await metric(gate, generated) < before + LONG, "vLLM has finished the answer"
            assert seconds < 1


async def test_two_names_that_saturate_do_not_starve_a_third(tmp_path: Path) -> None:
    extra = ("--max-active", "2", "--max-wait", f"{MAX_WAIT:g}")
    async with endpoint(tmp_path, *extra) as gate:
        await gate.serves(*(add(gate.claim, name, seed) for seed, name in enumerate(NAMES)))
        busy, done, generations = NAMES[:2], asyncio.Event(), []

        async def saturate(name: str) -> None:
            while not done.is_set():
                began = time.monotonic()
                await gate.stream(name, count=BOUNDED, ignore_eos=True)
                generations.append(time.monotonic() - began)

        waits = []
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                for name in busy:
                    group.create_task(saturate(name))
            await asyncio.sleep(5)
            for _ in range(6):
                began = time.monotonic()
                await gate.stream(NAMES[2], count=1)
                waits.append(time.monotonic() - began)
            done.set()
        print(f"a generation takes up to {max(generations):.2f} s; the third waited {waits}")
        # Two seconds for the requests themselves on a machine with other load.
        assert max(waits) <= MAX_WAIT + max(generations) + 2, waits
