"""The way in, for our own client and for kopf's watches: the same place, the same credentials.

Read by the official client (``kubernetes.aio``): ``$KUBECONFIG`` where it is set, else the pod's
service account, whose token is read again every minute, else ``~/.kube/config``. kopf's own logins
know no token file and no ``exec`` of a kubeconfig, and want the cluster's DNS to find the server.

Credentials that were refused are read anew: a token in a file is exchanged long before it ends.
"""

import os
from typing import Any

import kopf
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration

from finetune_operator.errors import Transient


async def read(configuration: Configuration) -> None:
    """Fill in where the API server is, and who we are. Raises Transient."""
    try:
        file = os.environ.get("KUBECONFIG")
        if not file and os.environ.get("KUBERNETES_SERVICE_HOST"):
            kube_config.load_incluster_config(client_configuration=configuration)
        else:
            await kube_config.load_kube_config(file, client_configuration=configuration)
    except (kube_config.ConfigException, OSError) as error:
        raise Transient(
            f"no way to an API server: {error}; run in a pod with a service account, or set "
            "KUBECONFIG"
        ) from error


async def for_kopf(**_: Any) -> kopf.ConnectionInfo:
    """Return the same for kopf, which asks anew once it is refused. Raises Transient."""
    configuration = Configuration()
    await read(configuration)
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
    )
