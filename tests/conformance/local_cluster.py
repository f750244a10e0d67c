"""Requests to the API server of the local cluster, as its administrator."""

import base64
import json
import ssl
from pathlib import Path

from tests.support.api_server.controlplane import ApiServer
from tests.support.local_cluster.kubectl import Kubectl


def api_server(kubectl: Kubectl, folder: Path) -> ApiServer:
    """Return the API server with the certificates of a kubeconfig; folder: for their files."""
    config = json.loads(kubectl.kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    tls = ssl.create_default_context(cadata=authority)
    # Python loads the certificate and the key of a client from files only.
    pair = folder / "administrator.pem"
    pair.touch(mode=0o600)
    names = ("client-certificate-data", "client-key-data")
    pair.write_bytes(b"".join(base64.b64decode(user[name]) for name in names))
    tls.load_cert_chain(pair)
    return ApiServer(
        server=cluster["server"],
        kubeconfig=kubectl.kubeconfig,
        assets=kubectl.program.parent,
        tls=tls,
    )
