"""At the end, the watches that kopf left open are cancelled, and nothing else."""

import asyncio

from finetune_operator.kube import kopf_settings


async def test_watches_are_cancelled_and_other_tasks_continue() -> None:
    forever = asyncio.Event()
    watch = asyncio.create_task(forever.wait(), name="watcher for finetuneprofiles@none")
    other = asyncio.create_task(forever.wait(), name="scrapes")
    await asyncio.sleep(0)
    kopf_settings.cancel_watches()
    await asyncio.wait({watch}, timeout=5)
    assert watch.cancelled()
    forever.set()
    assert await other is True
