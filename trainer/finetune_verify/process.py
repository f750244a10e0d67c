"""The process of a container next to vLLM: how it logs, and how it ends."""

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable

from finetune_api.contracts import termination
from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.result import Result
from finetune_api.safety.printable import printable


def log(text: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {printable(text)}", file=sys.stderr, flush=True)


async def until_stopped(run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Call a function with an event that SIGTERM or SIGINT sets."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(stop)


def failed(code: ExitCode, message: str) -> int:
    """Log the failure, write the termination message, and return the exit code."""
    reason = code.reasons[0]
    log(f"{reason}: {message}")
    result = Result(stage="verify", outcome="failed", reason=reason, message=message)
    termination.write(result, log)
    return int(code)
