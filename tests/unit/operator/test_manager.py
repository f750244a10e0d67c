"""The manager: events of FineTuneJobs, the supervision of its parts, and the wait for the CRD."""

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Any, ClassVar, cast

import pytest
from tests.fakes.kube_client import job

from finetune_operator import manager
from finetune_operator.controller.controller import Controller
from finetune_operator.controller.resync import Resync
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Terminal, Transient
from finetune_operator.manager import Manager
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.types import Key


class Parts:
    """Stands for the controller and the resync; records their calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Key, str, int, bool]] = []
        self.requests = 0

    def notify(self, *call: Any) -> None:
        self.calls.append(call)

    def request(self) -> None:
        self.requests += 1


def managing(parts: Parts, task: asyncio.Task[None]) -> Manager:
    return Manager(
        store=ObjectStore(),
        controller=cast(Controller, parts),
        resync=cast(Resync, parts),
        parts=task,
        resources=AsyncExitStack(),
    )


async def forever() -> None:
    await asyncio.Event().wait()


async def failing() -> None:
    raise Transient("a worker has ended")


async def test_a_job_is_stored_and_its_changes_notify_the_controller() -> None:
    parts = Parts()
    running = managing(parts, asyncio.create_task(forever()))
    found = job()
    found["metadata"] |= {"resourceVersion": "1"}
    # Items of a list come without apiVersion and kind.
    item = {key: value for key, value in found.items() if key not in ("apiVersion", "kind")}
    running.deliver(None, item)
    running.deliver("ADDED", found)
    assert (parts.calls, parts.requests) == ([(("a", "demo"), "FineTuneJob", 1, True)], 1)
    found["metadata"] |= {"resourceVersion": "2"}
    running.deliver("MODIFIED", {**found, "status": {"summary": "ours"}})
    assert len(parts.calls) == 1, "a status write is no news"
    stored = running.store.job(("a", "demo"))
    assert stored is not None
    assert stored["status"] == {"summary": "ours"}
    found["metadata"] |= {"resourceVersion": "3"}
    running.deliver("MODIFIED", {**found, "spec": {"suspend": True}})
    found["metadata"] |= {"resourceVersion": "4"}
    running.deliver("DELETED", found)
    assert [call[2:] for call in parts.calls] == [(1, True), (3, True), (4, True)]
    assert running.store.jobs() == []
    await running.stop()


async def test_an_event_that_kopf_holds_has_no_large_metadata() -> None:
    """An event stays in memory for a while after it was handled."""
    running = managing(Parts(), asyncio.create_task(forever()))
    found = job()
    found["metadata"] |= {
        "resourceVersion": "1",
        "managedFields": [{"x": "y" * 99}],
        "annotations": {"a": "y" * 99},
    }
    running.deliver(None, found)
    assert found["metadata"].keys().isdisjoint({"managedFields", "annotations"})
    stored = running.store.job(("a", "demo"))
    assert stored is not None
    assert stored["spec"] == found["spec"]
    await running.stop()


async def test_a_part_that_ends_makes_kopf_stop_the_process_and_its_error_is_raised() -> None:
    received = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, received.set)
    try:
        task = asyncio.create_task(manager.run_until_first_exit(forever(), failing()))
        task.add_done_callback(manager._end_process)
        async with asyncio.timeout(10):
            await received.wait()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    running = managing(Parts(), task)
    closed = asyncio.Event()
    running.resources.callback(closed.set)
    with pytest.raises(Transient, match="a worker has ended"):
        await running.stop()
    assert closed.is_set()


async def test_a_stop_sends_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(number: int) -> None:
        raise AssertionError(f"signal {number}")

    monkeypatch.setattr(signal, "raise_signal", unexpected)
    task = asyncio.create_task(manager.run_until_first_exit(forever()))
    task.add_done_callback(manager._end_process)
    await asyncio.sleep(0)
    await managing(Parts(), task).stop()
    assert task.cancelled()


async def test_a_part_that_ended_without_an_error_is_an_error() -> None:
    async def ending() -> None:
        raise asyncio.CancelledError

    task = asyncio.create_task(ending())
    await asyncio.wait([task])
    with pytest.raises(RuntimeError, match="ended without an error"):
        await managing(Parts(), task).stop()


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

    async def require_crd(self) -> None:
        if self.left:
            error, cause = self.left.pop(0)
            raise error from cause


async def test_blocked_connection_names_the_chart_value_and_each_cause_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NetworkPolicy shows as a time-out; an answer of the API server is not its fault."""
    monkeypatch.setattr(manager, "RETRY_SECONDS", 0)
    await manager._wait_for_crd(cast(Kube, ApiServer()))
    blocked, missing = [record.getMessage() for record in caplog.records]
    assert "networkPolicy.apiServerPorts" in blocked
    assert "10.96.0.1:443" in blocked
    assert "networkPolicy" not in missing
