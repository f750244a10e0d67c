"""Taking turns: stand by until the Lease is ours, work while it is, stand by again.

A replica that loses the Lease goes on as one that stands by, with its watches and connections as
they are. A new process would lose them, and the kubelet would keep it waiting after an outage.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from finetune_operator.controller.controller import Controller
from finetune_operator.controller.resync import Resync
from finetune_operator.leader_election import Lease


async def lead(lease: Lease, controller: Controller, resync: Resync) -> None:
    """Take turns until cancelled; then end the work and give the Lease back.

    Raises what a worker raised.
    """
    try:
        while True:
            await lease.acquire()
            await until_first_ends(controller.run(), resync.run(), lease.hold())
    finally:
        await controller.stop()
        await lease.release()


async def until_first_ends(*parts: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
    """Wait for the first part to end, end the others, raise what any of them raised."""
    tasks = [
        part if isinstance(part, asyncio.Task) else asyncio.create_task(part) for part in parts
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
