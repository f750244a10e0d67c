"""The manager: the supervision of its parts, and the wait for the CRDs."""

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import ClassVar, cast

import pytest

from finetune_operator import manager
from finetune_operator.controller.running import run_until_first_exit
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Terminal, Transient
from finetune_operator.manager import Manager


def managing(task: asyncio.Task[None]) -> Manager:
    return Manager(kinds={}, parts=task, resources=AsyncExitStack())


async def forever() -> None:
    await asyncio.Event().wait()


async def failing() -> None:
    raise Transient("a worker has ended")


async def test_a_part_that_ends_makes_kopf_stop_the_process_and_its_error_is_raised() -> None:
    received = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, received.set)
    try:
        task = asyncio.create_task(run_until_first_exit(forever(), failing()))
        task.add_done_callback(manager._end_process)
        async with asyncio.timeout(10):
            await received.wait()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    running = managing(task)
    closed = asyncio.Event()
    running.resources.callback(closed.set)
    with pytest.raises(Transient, match="a worker has ended"):
        await running.stop()
    assert closed.is_set()


async def test_a_stop_sends_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(number: int) -> None:
        raise AssertionError(f"signal {number}")

    monkeypatch.setattr(signal, "raise_signal", unexpected)
    task = asyncio.create_task(run_until_first_exit(forever()))
    task.add_done_callback(manager._end_process)
    await asyncio.sleep(0)
    await managing(task).stop()
    assert task.cancelled()


async def test_a_part_that_ended_without_an_error_is_an_error() -> None:
    async def ending() -> None:
        raise asyncio.CancelledError

    task = asyncio.create_task(ending())
    await asyncio.wait([task])
    with pytest.raises(RuntimeError, match="ended without an error"):
        await managing(task).stop()


class ApiServer:
    """Fails twice: no answer, and an answer without the CRD."""

    server = "10.96.0.1:443"
    failures: ClassVar = [
        (Transient("GET /apis/finetune.dev/v1alpha1: failed"), TimeoutError("timed out")),
        (Terminal("the API server does not serve finetunejobs"), None),
        (Terminal("the API server does not serve finetunejobs"), None),
    ]

    def __init__(self) -> None:
        self.left = list(self.failures)

    async def require_crds(self) -> None:
        if self.left:
            error, cause = self.left.pop(0)
            raise error from cause


async def test_blocked_connection_names_the_chart_value_and_each_cause_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NetworkPolicy shows as a time-out; an answer of the API server is not its fault."""
    monkeypatch.setattr(manager, "RETRY_SECONDS", 0)
    await manager._wait_for_crds(cast(Kube, ApiServer()))
    blocked, missing = [record.getMessage() for record in caplog.records]
    assert "networkPolicy.apiServerPorts" in blocked
    assert "10.96.0.1:443" in blocked
    assert "networkPolicy" not in missing
