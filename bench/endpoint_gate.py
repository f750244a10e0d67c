"""The gate with one name that was not proved, for ``bench endpoint``, which measures its streams.

``python -m bench.endpoint_gate SOCKET PORT``
"""

import asyncio
import sys
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry

from finetune_gate.engine import Engine
from finetune_gate.names import Proof, Route, Table
from finetune_gate.queue.fairness import Fairness
from finetune_gate.queue.places import Places
from finetune_gate.requests.proxy import Proxy
from finetune_gate.server import for_callers, listening
from finetune_gate.usage import Usage

NAME = "bench"
INTERNAL = "0" * 64 + "-0123456789abcdef"


class _Names:
    """A table that no restart empties."""

    def __init__(self, boot: str) -> None:
        proof = Proof(
            boot=boot,
            internal=INTERNAL,
            outcome="Verified",
            message="",
            distance=0.0,
            tolerance=1.0,
            smallest_fault=None,
        )
        route = Route(
            name=NAME, job=NAME, adapter="", proof=proof, template=None, keys=None, salt=""
        )
        self.table = Table(boot=boot).swapped([route])

    def is_wanted(self, name: str, caller: str) -> bool:
        return True

    def is_known(self, caller: str) -> bool:
        return True


async def serve(socket: Path, port: int) -> None:
    """Serve until the process ends."""
    places = Places(Fairness(max_active=8, capacity=256, max_wait=10, longest=256))
    engine = Engine(socket, base="base", place=places.place)
    boot = engine.boot()
    assert boot is not None
    proxy = Proxy(engine, places, Usage(CollectorRegistry()), _Names(boot))
    runner = web.AppRunner(for_callers(proxy), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.SockSite(runner, listening(port)).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
