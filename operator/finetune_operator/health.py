"""HTTP server of the probes: ``/healthz`` and ``/readyz``.

``/healthz`` fails if a worker has ended or has reconciled one object for ``STUCK_SECONDS``; a
restart resolves both. ``/readyz`` fails until all parts have started and the objects that ours own
have been listed. A standby is ready too.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from finetune_operator.controller.running import RunningKind
from finetune_operator.snapshot.reflector import Reflector

PORT = 8081
STUCK_SECONDS = 300.0


class Health:
    """State of the process for the probes."""

    def __init__(self, kinds: Sequence[RunningKind], reflectors: Sequence[Reflector]) -> None:
        self._kinds, self._reflectors = kinds, reflectors
        self.started = False
        """Whether all parts run, so that kopf starts to watch our own kinds."""

    @property
    def ready(self) -> bool:
        """Whether the stores are kept up to date."""
        return self.started and all(reflector.synced.is_set() for reflector in self._reflectors)

    def failure_reason(self) -> str | None:
        """Return why the process must be restarted, None if it is healthy."""
        for kind in self._kinds:
            if not kind.controller.alive:
                return "a worker has ended"
            longest = kind.controller.queue.longest()
            if longest > STUCK_SECONDS:
                return f"a worker has been reconciling one {kind.own} for {longest:.0f} s"
        return None


@asynccontextmanager
async def serving(health: Health, port: int = PORT) -> AsyncIterator[int]:
    """Serve on all addresses until the end of the block; yield the port. Raises OSError."""
    runner = web.AppRunner(_application(health), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, port=port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _application(health: Health) -> web.Application:
    async def healthz(_: web.Request) -> web.Response:
        reason = health.failure_reason()
        return web.Response(text=reason or "ok", status=500 if reason else 200)

    async def readyz(_: web.Request) -> web.Response:
        text = "ok" if health.ready else "watches are starting"
        return web.Response(text=text, status=200 if health.ready else 503)

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    return application
