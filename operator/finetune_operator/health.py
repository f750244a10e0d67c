"""The operator's own HTTP server: ``/metrics``, ``/healthz`` and ``/readyz``.

``/healthz`` fails when a worker is gone or has been at one job for ``STUCK_SECONDS``: a restart
helps then, and only then. ``/readyz`` fails until the watches run; who stands by is ready too.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from finetune_operator.controller.controller import Controller
from finetune_operator.telemetry.metrics import REGISTRY

PORT = 8080
STUCK_SECONDS = 300.0


class Health:
    """What the probes answer from."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.ready = False

    def complaint(self) -> str | None:
        """Return what a restart would mend, None where nothing is wrong."""
        if not self._controller.alive:
            return "a worker is gone"
        longest = self._controller.queue.longest()
        if longest > STUCK_SECONDS:
            return f"a worker has been at one job for {longest:.0f} s"
        return None


@asynccontextmanager
async def serving(health: Health, port: int = PORT) -> AsyncIterator[int]:
    """Serve for the time of the block, on all addresses; yield the port. Raises OSError."""
    runner = web.AppRunner(_application(health), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, port=port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _application(health: Health) -> web.Application:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def healthz(_: web.Request) -> web.Response:
        complaint = health.complaint()
        return web.Response(text=complaint or "ok", status=500 if complaint else 200)

    async def readyz(_: web.Request) -> web.Response:
        text = "ok" if health.ready else "the watches are being started"
        return web.Response(text=text, status=200 if health.ready else 503)

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    return application
