"""Runs the application on 127.0.0.1, with the kubeconfig of the user who has started it.

Neither the browser is opened nor is the code part of an address: other users of the machine can
read the arguments of processes, and browsers keep addresses.
"""

import asyncio
import logging
import secrets
import signal
import socket
from collections.abc import Callable

from aiohttp import web

from finetune_cli.cluster.api import Cluster
from finetune_cli.errors import CommandFailed
from finetune_cli.ui.access.one_user import OneUser
from finetune_cli.ui.app import Application
from finetune_cli.ui.pages import messages
from finetune_trainer.errors import Stopped

ADDRESS = "127.0.0.1"
PATH_BYTES = 12
SHUTDOWN_SECONDS = 2.0


def run(cluster: Cluster, port: int, announce: Callable[[str, str], None]) -> None:
    """Serve until the process is stopped. port: 0 for a free one. Raises CommandFailed or Stopped.

    announce: is called with the address and the one-time code.
    """
    with _bound(port) as listener:
        asyncio.run(_serve(cluster, listener, announce))


async def _serve(
    cluster: Cluster, listener: socket.socket, announce: Callable[[str, str], None]
) -> None:
    origin = f"http://{ADDRESS}:{listener.getsockname()[1]}"
    access = OneUser(cluster)
    application = Application(
        access=access,
        login=messages.CODE,
        origins=(origin,),
        prefix=f"/{secrets.token_urlsafe(PATH_BYTES)}",
    )
    await until_stopped(
        application, listener, lambda: announce(f"{origin}{application.prefix}/", access.code)
    )


async def until_stopped(
    application: Application, listener: socket.socket, started: Callable[[], None]
) -> None:
    """Serve until SIGTERM. started: is called as soon as requests are answered. Raises Stopped."""
    stopped = asyncio.Event()
    # An exception in a signal handler would end the request that is answered at that moment.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    # Requests are not logged: a log would have the path, and names of jobs.
    silent = logging.getLogger("finetune_cli.ui.silent")
    silent.disabled = True
    runner = web.AppRunner(
        application.build(),
        access_log=None,
        logger=silent,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        started()
        await stopped.wait()
    finally:
        await runner.cleanup()
    raise Stopped


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
    except OSError as error:
        listener.close()
        raise CommandFailed(
            f"port {port} of {ADDRESS} cannot be used ({error.strerror}): set --port to another one"
        ) from None
    return listener
