"""Runs the application in a pod of the cluster, for several users, each with a token of their own.

The pod has no token: it knows the address of the API server, which Kubernetes sets in each
container, and the certificate authority of the cluster.
"""

import asyncio
import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from kubernetes import client

from finetune_cli.cluster.api import Cluster
from finetune_cli.errors import CommandFailed, WrongCall
from finetune_cli.ui import serve
from finetune_cli.ui.access.users import Users
from finetune_cli.ui.app import Application
from finetune_cli.ui.pages import messages

PORT = 8080
ORIGIN = re.compile(r"(https?)://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
COOKIE = "__Host-ftj"
"""Browsers accept a cookie with this prefix only from its host itself, over HTTPS."""
SERVER = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")


def run(urls: Sequence[str], authority: Path, listener: socket.socket) -> None:
    """Serve until the process is stopped. Raises CommandFailed or Stopped.

    urls: where browsers reach the page. authority: file with the certificates of the cluster.
    """
    app = application(urls, Users(connection(server(os.environ), authority)))
    asyncio.run(serve.until_stopped(app, listener, lambda: None))


def application(urls: Sequence[str], users: Users) -> Application:
    """Return the application. Raises WrongCall for a URL that is not an origin."""
    origins = [url.removesuffix("/") for url in urls]
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise WrongCall(
                f"{origin} is not the URL of a page: write it as https://HOST, with :PORT if it is "
                "not the default port of the scheme, in small letters and without a path"
            )
    secure = all(origin.startswith("https:") for origin in origins)
    return Application(
        access=users,
        login=messages.TOKEN,
        origins=origins,
        prefix="",
        shared=True,
        cookie=COOKIE if secure else "ftj",
    )


def server(environment: "os._Environ[str] | dict[str, str]") -> str:
    """Return the URL of the API server. Raises CommandFailed outside a pod."""
    host, port = (environment.get(name, "") for name in SERVER)
    if not host or not port:
        raise CommandFailed(f"{' and '.join(SERVER)} are not set: run this program in a pod")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def connection(server: str, authority: Path) -> Callable[[str], Cluster]:
    """Return a function that returns the client of a token. No token shares a connection."""

    def connect(token: str) -> Cluster:
        settings = client.Configuration()
        settings.host = server
        settings.ssl_ca_cert = str(authority)
        settings.retries = False
        settings.api_key = {"BearerToken": token}
        settings.api_key_prefix = {"BearerToken": "Bearer"}
        return Cluster(api=client.ApiClient(settings), namespace="default", context="", shared=True)

    return connect
