"""The process of the gate is killed while vLLM continues: nothing answers, and the names return."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from tests.fakes import vllm_server
from tests.fakes.vllm_server import FakeVllm
from tests.support.gate import gate as gates
from tests.support.gate.claim import Claim
from tests.support.gate.gate import Gate, signed

from finetune_gate.__main__ import parser


@asynccontextmanager
async def process(
    folder: Path, vllm: FakeVllm, claim: Claim
) -> AsyncIterator[tuple[Gate, asyncio.subprocess.Process]]:
    """Run a gate in a process of its own, as its container does."""
    words = gates.words(folder, claim)
    parsed = parser().parse_args(words)
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "finetune_gate", *words),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        async with aiohttp.ClientSession() as session:
            found = Gate(
                url=f"http://127.0.0.1:{parsed.port}",
                operator_url=f"http://127.0.0.1:{parsed.operator_port}",
                session=session,
                vllm=vllm,
                claim=claim,
                wanted=parsed.wanted,
            )
            await found.is_true(partial(_listens, found))
            yield found, started
    finally:
        if started.returncode is None:
            started.send_signal(signal.SIGKILL)
        await started.wait()


async def test_a_killed_gate(tmp_path: Path) -> None:
    claim = Claim.create(tmp_path / "claim")
    async with vllm_server.serving(tmp_path / "vllm.sock") as vllm:
        async with process(tmp_path, vllm, claim) as (gate, running):
            wanted = claim.add("a")
            await gate.put(signed([wanted], 7))
            await gate.until("a", lambda each: each.state == "Serving")
            vllm.interval = 0.02
            stream = asyncio.create_task(gate.stream("a", count=400))
            await gate.has_running()
            vllm.aborted.clear()
            running.send_signal(signal.SIGKILL)
            with pytest.raises((aiohttp.ClientError, AssertionError)):
                await stream
            await gate.is_true(partial(_has_aborted, vllm))
            before = set(vllm.adapters)
        vllm.interval = 0.001
        async with process(tmp_path, vllm, claim) as (gate, _):
            status, text = await gate.put(signed([claim.add("evil")], 6))
            assert (status, "sequence" in text) == (403, True), text
            assert (await gate.put(signed([wanted], 7)))[0] == 204
            await gate.until("a", lambda each: each.state == "Serving")
            _, body = await gate.chat("a")
            assert body["choices"][0]["message"]["content"] == claim.seed(wanted)
            assert not before & set(vllm.adapters), "what the killed gate loaded is not used"


async def _listens(gate: Gate) -> bool:
    try:
        async with gate.session.get(f"{gate.operator_url}/livez") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def _has_aborted(vllm: FakeVllm) -> bool:
    return bool(vllm.aborted)
