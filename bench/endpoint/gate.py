"""The gate with names that were not proved, for benchmarks, which measure its streams.

``python -m bench.endpoint.gate SOCKET PORT [NAME=INTERNAL ...]``
"""

import asyncio
import sys
from collections.abc import Mapping
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

    def __init__(self, boot: str, names: Mapping[str, str]) -> None:
        self.table = Table(boot=boot).swapped(
            _route(name, internal, boot) for name, internal in names.items()
        )

    def is_wanted(self, name: str, caller: str) -> bool:
        return True

    def is_known(self, caller: str) -> bool:
        return True

    def has_key(self, caller: str) -> bool:
        return False


def _route(name: str, internal: str, boot: str) -> Route:
    proof = Proof(
        boot=boot,
        internal=internal,
        outcome="Verified",
        message="",
        distance=0.0,
        tolerance=1.0,
        smallest_fault=None,
    )
    return Route(
        name=name, job=name, adapter="", proof=proof, template=None, keys=None, salt="bench"
    )


async def serve(socket: Path, port: int, names: Mapping[str, str]) -> None:
    """Serve until the process ends. names: public name → internal name."""
    places = Places(Fairness(max_active=8, capacity=256, max_wait=10, longest=256))
    engine = Engine(socket, base="base", place=places.place)
    boot = engine.boot()
    assert boot is not None
    proxy = Proxy(engine, places, Usage(CollectorRegistry()), _Names(boot, names))
    runner = web.AppRunner(for_callers(proxy), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.SockSite(runner, listening(port)).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    given = dict(argument.split("=") for argument in sys.argv[3:]) or {NAME: INTERNAL}
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), given))
