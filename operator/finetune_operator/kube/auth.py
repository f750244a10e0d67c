"""Address and credentials of the API server, for our own client and for kopf's watches.

The official client (``kubernetes.aio``) loads them: from ``$KUBECONFIG`` if it is set, else from
the service account of the pod, whose token is reloaded every minute, else from ``~/.kube/config``.
kopf's own logins support neither token files nor ``exec`` plugins of a kubeconfig, and need cluster
DNS to resolve the server.

A pod reaches its API server directly: a proxy that the environment of a pod names is for the
internet. With a kubeconfig, the proxy is its ``proxy-url``, else that of ``HTTPS_PROXY`` and
``NO_PROXY``, as in kubectl. It is resolved once, here: aiohttp would read the environment and
``~/.netrc`` before every request.

Rejected credentials are loaded again: a token file is replaced long before its token expires.
"""

import asyncio
import logging
import os
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import kopf
import yaml
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration

from finetune_operator.kube import watch_session
from finetune_operator.kube.connection import Connection
from finetune_operator.kube.errors import Transient
from finetune_operator.kube.page_size import KOPF_PAGE

RETRY_SECONDS = 1.0
TIMEOUT_SECONDS = 5.0
NEVER = timedelta(days=3650)

logger = logging.getLogger("finetune_operator.auth")


async def load(configuration: Configuration) -> None:
    """Fill in address, credentials and proxy of the API server. Raises Transient."""
    try:
        file = os.environ.get("KUBECONFIG")
        if not file and os.environ.get("KUBERNETES_SERVICE_HOST"):
            kube_config.load_incluster_config(client_configuration=configuration)
            return
        await kube_config.load_kube_config(file, client_configuration=configuration)
    except (kube_config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
        raise Transient(
            f"cannot load credentials for an API server: {error}. Run the operator in a pod with a "
            "service account, or set KUBECONFIG to the path of a kubeconfig"
        ) from error
    configuration.proxy = configuration.proxy or _proxy_from_environment(configuration.host)


def _proxy_from_environment(server: str) -> str | None:
    """Return the URL of the proxy for a server, None if there is none."""
    scheme, address = urlsplit(server)[:2]
    return None if proxy_bypass(address) else getproxies().get(scheme)


async def kopf_login(**_: Any) -> kopf.AiohttpSession:
    """Return a session for kopf as soon as the API server accepts its credentials.

    kopf logs in again after a 401, and ends if a login returns what it tried before. So this
    returns only accepted credentials, with an expiration that differs on each call. It does not
    fail: kopf would not notice, and continue without its watches.
    """
    while True:
        configuration = Configuration()
        try:
            await load(configuration)
            if not await _are_rejected(configuration):
                break
        except Transient as error:
            logger.warning("login failed: %s", error)
        await asyncio.sleep(RETRY_SECONDS)
    return kopf.AiohttpSession(
        server=configuration.host,
        aiohttp_session=watch_session.session(configuration, page=KOPF_PAGE),
        expiration=datetime.now(UTC) + NEVER,
    )


async def _are_rejected(configuration: Configuration) -> bool:
    """Report whether the API server answers 401; False if it does not answer."""
    connection = Connection(configuration)
    limit = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with await connection.request("GET", "/version", limit=limit) as response:
            return response.status == 401
    except (TimeoutError, aiohttp.ClientError, OSError):
        return False
    finally:
        await connection.close()
