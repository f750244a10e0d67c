"""Cluster add-ons: DNS, the volume provisioner, and the roles of the host processes.

CoreDNS and the volume provisioner run as host processes: they need no image and cannot be evicted.
A Service without a selector routes pods to CoreDNS on the address of the node.
"""

from __future__ import annotations

import json
from typing import Any

from cluster import kubectl, paths
from cluster.artifacts import binaries
from cluster.components import pki
from cluster.components.control_plane import answers
from cluster.host import files, mounts, processes
from cluster.settings import (
    CLUSTER_DOMAIN,
    DNS_PORT,
    DNS_SERVICE,
    NODE_ADDRESS,
    SMALL_VOLUMES_SIZE,
)

NAMESPACE = "kube-system"
PROVISIONER = "local-path-provisioner"
READ = ["get", "list", "watch"]
CLASSES = {"local-path": paths.VOLUMES, "local-path-small": paths.SMALL_VOLUMES}


def start(helper_image: str) -> None:
    """Apply the objects and start the processes that are not running."""
    kubectl.local().apply(*_roles(), *_dns_objects(), *_storage_objects())
    _start_dns()
    _start_provisioner(helper_image)


def wait_for_account() -> None:
    """Wait for the default ServiceAccount: pods are rejected until a controller has created it."""
    client = kubectl.local()
    client.kubectl("wait", "serviceaccount/default", "--for=create", "--timeout=50s")


def apply_roles() -> None:
    """Apply only the roles: the firewall must be able to read policies before pods run."""
    kubectl.local().apply(*_roles())


def _role(name: str, *rules: tuple[str, list[str], list[str]]) -> list[dict[str, Any]]:
    """Return a ClusterRole with (group, resources, verbs) rules and its binding to the user."""
    api = "rbac.authorization.k8s.io"
    metadata = {"name": f"finetune-local:{name}"}
    return [
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": [
                {"apiGroups": [group], "resources": resources, "verbs": verbs}
                for group, resources, verbs in rules
            ],
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": metadata["name"]},
            "subjects": [{"apiGroup": api, "kind": "User", "name": name}],
        },
    ]


def _roles() -> list[dict[str, Any]]:
    slices = ("discovery.k8s.io", ["endpointslices"], READ)
    return [
        *_role("coredns", ("", ["endpoints", "namespaces", "pods", "services"], READ), slices),
        *_role(
            "kube-router",
            ("", ["endpoints", "namespaces", "nodes", "pods", "services"], READ),
            ("networking.k8s.io", ["networkpolicies"], READ),
            slices,
        ),
        *_role(
            PROVISIONER,
            ("", ["configmaps", "nodes", "persistentvolumeclaims", "pods/log"], READ),
            ("", ["persistentvolumes", "pods"], [*READ, "create", "delete", "patch", "update"]),
            ("", ["events"], ["create", "patch"]),
            ("storage.k8s.io", ["storageclasses"], READ),
        ),
    ]


def _dns_objects() -> list[dict[str, Any]]:
    ports = [
        {"name": name, "protocol": protocol, "port": 53}
        for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "kube-dns",
                "namespace": NAMESPACE,
                "labels": {"k8s-app": "kube-dns"},
            },
            "spec": {"clusterIP": DNS_SERVICE, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-host",
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
            "ports": [{**port, "port": DNS_PORT} for port in ports],
        },
    ]


def _start_dns() -> None:
    corefile = files.write(
        paths.ETC / "Corefile",
        f""".:{DNS_PORT} {{
    bind {NODE_ADDRESS}
    errors
    ready {NODE_ADDRESS}:8181
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig "{pki.kubeconfig("coredns")}"
    }}
    forward . /etc/resolv.conf
    cache 30 {{
        # No negative caching: a new Service must resolve immediately.
        disable denial
    }}
}}
""",
    )
    command = [binaries.program("coredns"), "-conf", str(corefile)]
    processes.start("coredns", command, configuration=[corefile])
    url = f"http://{NODE_ADDRESS}:8181/ready"
    processes.wait_until("coredns", lambda: answers(url), state="ready")


def _storage_objects() -> list[dict[str, Any]]:
    default = "storageclass.kubernetes.io/is-default-class"
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": PROVISIONER, "namespace": NAMESPACE},
        },
        *(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": name,
                    # `local` volumes, unlike hostPath volumes, apply the fsGroup of a pod.
                    "annotations": {
                        "defaultVolumeType": "local",
                        default: str(name == "local-path").lower(),
                    },
                },
                "provisioner": "rancher.io/local-path",
                "volumeBindingMode": "WaitForFirstConsumer",
                "reclaimPolicy": "Delete",
            }
            for name in CLASSES
        ),
    ]


def _start_provisioner(helper_image: str) -> None:
    paths.VOLUMES.mkdir(parents=True, exist_ok=True)
    # Small, because a test fills it.
    mounts.tmpfs(paths.SMALL_VOLUMES, SMALL_VOLUMES_SIZE)
    everywhere = "DEFAULT_PATH_FOR_NON_LISTED_NODES"
    classes = {
        name: {"nodePathMap": [{"node": everywhere, "paths": [str(folder)]}]}
        for name, folder in CLASSES.items()
    }
    config = files.write(
        paths.ETC / "local-path.json", json.dumps({"storageClassConfigs": classes}, indent=2)
    )
    helper = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "helper-pod"},
        "spec": {"containers": [{"name": "helper-pod", "image": helper_image}]},
    }
    helper_file = files.write(paths.ETC / "local-path-helper.json", json.dumps(helper, indent=2))
    scripts = {
        "setup": '#!/bin/sh\nset -eu\nmkdir -m 0777 -p "$VOL_DIR"\n',
        "teardown": '#!/bin/sh\nset -eu\nrm -rf "$VOL_DIR"\n',
    }
    kubectl.local().apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "local-path-config", "namespace": NAMESPACE},
            "data": scripts,
        }
    )
    processes.start(
        PROVISIONER,
        [
            binaries.program(PROVISIONER),
            "start",
            f"--kubeconfig={pki.kubeconfig(PROVISIONER)}",
            f"--config={config}",
            f"--namespace={NAMESPACE}",
            f"--helper-image={helper_image}",
            f"--helper-pod-file={helper_file}",
            "--configmap-name=local-path-config",
            f"--service-account-name={PROVISIONER}",
        ],
        configuration=[config, helper_file],
    )
