"""The HTTP server of ``/metrics``; with ``metrics.secure`` over TLS, for authorized tokens only."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from finetune_operator.config import MetricsConfig
from finetune_operator.kube.client import Kube
from finetune_operator.metrics_server import certificate
from finetune_operator.metrics_server.access import PATH, AccessControl, reviewed_by
from finetune_operator.telemetry.metrics import REGISTRY

PORT = 8080


@asynccontextmanager
async def serving(config: MetricsConfig, kube: Kube, port: int = PORT) -> AsyncIterator[int]:
    """Serve on all addresses until the end of the block; yield the port. Raises OSError."""
    access = AccessControl(reviewed_by(kube)) if config.secure else None
    folder = Path(config.certificate_folder) if config.certificate_folder else None
    context = certificate.server_context(folder) if config.secure else None
    runner = web.AppRunner(_application(access), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    reloading = _reloading(context, folder)
    try:
        site = web.TCPSite(runner, port=port, ssl_context=context)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        if reloading is not None:
            reloading.cancel()
            with suppress(asyncio.CancelledError):
                await reloading
        await runner.cleanup()


def _reloading(context: ssl.SSLContext | None, folder: Path | None) -> asyncio.Task[None] | None:
    if context is None or folder is None:
        return None
    return asyncio.create_task(certificate.reload(context, folder))


def _application(access: AccessControl | None) -> web.Application:
    async def metrics(request: web.Request) -> web.Response:
        if access is not None:
            sent = request.headers.get("Authorization", "")
            answer = await access.answer(sent, request.remote or "")
            if answer.status != 200:
                headers = {"WWW-Authenticate": "Bearer"} if answer.status == 401 else {}
                return web.Response(status=answer.status, text=f"{answer.text}\n", headers=headers)
        return web.Response(
            body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    application = web.Application()
    application.router.add_get(PATH, metrics)
    return application
