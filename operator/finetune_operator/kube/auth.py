"""The way in, for our own client and for kopf's watches: the same place, the same credentials.

Read by the official client (``kubernetes.aio``): ``$KUBECONFIG`` where it is set, else the pod's
service account, whose token is read again every minute, else ``~/.kube/config``. kopf's own logins
know no token file and no ``exec`` of a kubeconfig, and want the cluster's DNS to find the server.

A proxy is the kubeconfig's, else the one that ``HTTPS_PROXY`` and ``NO_PROXY`` name. It is looked
up once, here: aiohttp would ask the environment, and ``~/.netrc``, again before every request.

Credentials that were refused are read anew: a token in a file is exchanged long before it ends.
"""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import kopf
import yaml
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from finetune_operator.kube.errors import Transient

AGAIN_SECONDS = 1.0
ANSWER_SECONDS = 5.0
FOREVER = timedelta(days=3650)


async def read(configuration: Configuration) -> None:
    """Fill in where the API server is, and who we are. Raises Transient."""
    try:
        file = os.environ.get("KUBECONFIG")
        if not file and os.environ.get("KUBERNETES_SERVICE_HOST"):
            kube_config.load_incluster_config(client_configuration=configuration)
        else:
            await kube_config.load_kube_config(file, client_configuration=configuration)
    except (kube_config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
        raise Transient(
            f"no way to an API server: {error}; run in a pod with a service account, or set "
            "KUBECONFIG"
        ) from error
    configuration.proxy = configuration.proxy or _proxy_of_environment(configuration.host)
    configuration.client_session_kwargs = {"trust_env": False}


def _proxy_of_environment(server: str) -> str | None:
    """Return the URL of the proxy through which an address is to be reached, None for none."""
    scheme, address = urlsplit(server)[:2]
    return None if proxy_bypass(address) else getproxies().get(scheme)


async def for_kopf(**_: Any) -> kopf.ConnectionInfo:
    """Return the same for kopf, once it is of use. Raises Transient.

    kopf asks anew when it is refused, and ends where it gets nothing that it has not tried before:
    so it gets what is accepted, and with a mark by which it is never the same.
    """
    while True:
        configuration = Configuration()
        await read(configuration)
        if not await _refused(configuration):
            break
        await asyncio.sleep(AGAIN_SECONDS)
    scheme, _space, token = configuration.api_key.get("BearerToken", "").partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme or None,
        token=token.strip() or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
        expiration=datetime.now(UTC) + FOREVER,
    )


async def _refused(configuration: Configuration) -> bool:
    """Tell whether the API server does not know these credentials; one that is away may do so."""
    async with ApiClient(configuration) as api:
        limit = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        verb, url, headers, body, _form = await api.param_serialize(
            "GET", "/version", auth_settings=["BearerToken"]
        )
        try:
            answer = await api.call_api(verb, url, headers, body, _request_timeout=limit)
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False
        return bool(answer.status == 401)
