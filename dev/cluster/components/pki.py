"""Keys, certificates and kubeconfigs of the local cluster, created with openssl.

The PKI is a folder that is published by rename when complete, and exists as long as the cluster.
etcd has its own certificate authority, so that no Kubernetes client certificate gives access to it.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
from pathlib import Path

from cluster import paths
from cluster.host import files
from cluster.settings import (
    API_SERVER,
    CLUSTER_DOMAIN,
    KUBERNETES_SERVICE,
    NODE_ADDRESS,
    NODE_NAME,
)
from cluster.shell import run

DAYS = "3650"
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate:
    """A leaf certificate: file name, subject and use."""

    name: str
    subject: str
    usage: str
    names: tuple[str, ...] = ()
    authority: str = "ca"


_API_NAMES = (
    "IP:127.0.0.1",
    f"IP:{NODE_ADDRESS}",
    f"IP:{KUBERNETES_SERVICE}",
    "DNS:localhost",
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    f"DNS:kubernetes.default.svc.{CLUSTER_DOMAIN}",
)
_NODE = f"/O=system:nodes/CN=system:node:{NODE_NAME}"
_NODE_NAMES = (f"IP:{NODE_ADDRESS}", f"DNS:{NODE_NAME}")
_LOCAL = ("IP:127.0.0.1",)
CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "kube-controller-manager": "/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    "kubelet": _NODE,
    "kube-proxy": "/CN=system:kube-proxy",
    "kube-router": "/CN=kube-router",
    "local-path-provisioner": "/CN=local-path-provisioner",
}
CERTIFICATES = (
    Certificate(name="apiserver", subject="/CN=apiserver", usage="serverAuth", names=_API_NAMES),
    Certificate(
        name="apiserver-kubelet",
        subject="/O=system:masters/CN=apiserver-kubelet",
        usage="clientAuth",
    ),
    Certificate(name="kubelet-server", subject=_NODE, usage="serverAuth", names=_NODE_NAMES),
    # Also for client authentication: the gateway of etcd uses this certificate as a client.
    Certificate(
        name="etcd",
        subject="/CN=etcd",
        usage="serverAuth,clientAuth",
        names=_LOCAL,
        authority="etcd-ca",
    ),
    Certificate(
        name="etcd-client", subject="/CN=apiserver", usage="clientAuth", authority="etcd-ca"
    ),
    *(
        Certificate(name=name, subject=subject, usage="clientAuth")
        for name, subject in CLIENTS.items()
    ),
)


def certificate(name: str) -> str:
    """Return the path of a certificate."""
    return str(paths.PKI / f"{name}.crt")


def key(name: str) -> str:
    """Return the path of a private key."""
    return str(paths.PKI / f"{name}.key")


def kubeconfig(name: str) -> str:
    """Return the path of the kubeconfig of a component."""
    return str(paths.PKI / f"{name}.kubeconfig")


def ensure() -> None:
    """Create the PKI unless it exists, and write the kubeconfig of the user."""
    if not paths.PKI.exists():
        partial = paths.PKI.with_name("pki.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        for authority in ("ca", "etcd-ca"):
            _make_authority(partial, authority)
        for leaf in CERTIFICATES:
            _make_certificate(partial, leaf)
        run(["openssl", "genrsa", "-out", str(partial / "service-account.key"), "2048"])
        for name in CLIENTS:
            content = _kubeconfig(partial, name)
            (partial / f"{name}.kubeconfig").write_text(content)
        partial.rename(paths.PKI)
    admin = _kubeconfig(paths.PKI, "admin", embedded=True)
    files.write(paths.KUBECONFIG, admin, mode=0o600)


def _make_authority(folder: Path, name: str) -> None:
    files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")]
    subject = ["-days", DAYS, "-subj", f"/CN=finetune-{name}"]
    usage = ["-addext", "keyUsage=critical,keyCertSign,digitalSignature"]
    run(["openssl", "req", "-x509", *KEY, *files, *subject, *usage])


def _make_certificate(folder: Path, leaf: Certificate) -> None:
    base = folder / leaf.name
    extensions = f"keyUsage=critical,digitalSignature\nextendedKeyUsage={leaf.usage}\n"
    if leaf.names:
        extensions += f"subjectAltName={','.join(leaf.names)}\n"
    base.with_suffix(".ext").write_text(extensions)
    request = ["-keyout", f"{base}.key", "-out", f"{base}.csr", "-subj", leaf.subject]
    run(["openssl", "req", *KEY, *request])
    authority = folder / leaf.authority
    signer = ["-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial"]
    files = ["-in", f"{base}.csr", "-out", f"{base}.crt", "-extfile", f"{base}.ext"]
    run(["openssl", "x509", "-req", *files, *signer, "-days", DAYS])


def _kubeconfig(folder: Path, name: str, *, embedded: bool = False) -> str:
    """Return a kubeconfig as JSON; ``embedded`` includes the certificates, so it can be copied."""

    def reference(kind: str, file: str) -> dict[str, str]:
        if not embedded:
            return {kind: str(paths.PKI / file)}
        return {f"{kind}-data": base64.b64encode((folder / file).read_bytes()).decode()}

    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "finetune-local",
                "cluster": {
                    "server": API_SERVER,
                    **reference("certificate-authority", "ca.crt"),
                },
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    **reference("client-certificate", f"{name}.crt"),
                    **reference("client-key", f"{name}.key"),
                },
            }
        ],
        "contexts": [
            {"name": "finetune-local", "context": {"cluster": "finetune-local", "user": name}}
        ],
        "current-context": "finetune-local",
    }
    return json.dumps(content, indent=2) + "\n"
