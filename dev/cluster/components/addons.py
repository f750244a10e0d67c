"""Cluster add-ons: DNS, the volume provisioner, and the roles of the host processes.

CoreDNS runs in pods of kube-system, where the default values of charts expect it. The volume
provisioner runs as a host process: it needs no image and cannot be evicted.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cluster import kubectl, paths
from cluster.artifacts import binaries
from cluster.components import pki
from cluster.host import files, mounts, processes
from cluster.settings import (
    CLUSTER_DOMAIN,
    DNS_SERVICE,
    SMALL_VOLUMES_SIZE,
)

NAMESPACE = "kube-system"
PROVISIONER = "local-path-provisioner"
READ = ["get", "list", "watch"]
COREFILE = f""".:53 {{
    errors
    ready :8181
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa
    forward . /etc/resolv.conf
    cache 30 {{
        # No negative caching: a new Service must resolve immediately.
        disable denial
    }}
}}
"""
CLASSES = {"local-path": paths.VOLUMES, "local-path-small": paths.SMALL_VOLUMES}


def start(helper_image: str, dns_image: str) -> None:
    """Apply the objects and start the processes that are not running."""
    kubectl.local().apply(*_roles(), *_dns_objects(dns_image), *_storage_objects())
    _start_provisioner(helper_image)


def wait() -> None:
    """Wait for DNS, and for the default ServiceAccount.

    Pods are rejected until a controller has created the account.
    """
    client = kubectl.local()
    client.kubectl("wait", "serviceaccount/default", "--for=create", "--timeout=50s")
    target = ["deployment/coredns", "-n", NAMESPACE]
    client.kubectl("rollout", "status", *target, "--timeout=90s", timeout=100)


def apply_roles() -> None:
    """Apply only the roles: the firewall must be able to read policies before pods run."""
    kubectl.local().apply(*_roles())


def _role(
    name: str,
    *rules: tuple[str, list[str], list[str]],
    subject: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return a ClusterRole with (group, resources, verbs) rules and its binding.

    subject: None for the user that has the name of the role.
    """
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
            "subjects": [subject or {"apiGroup": api, "kind": "User", "name": name}],
        },
    ]


def _roles() -> list[dict[str, Any]]:
    slices = ("discovery.k8s.io", ["endpointslices"], READ)
    return [
        *_role(
            "coredns",
            ("", ["endpoints", "namespaces", "pods", "services"], READ),
            slices,
            subject={"kind": "ServiceAccount", "name": "coredns", "namespace": NAMESPACE},
        ),
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


def _dns_objects(image: str) -> list[dict[str, Any]]:
    """Return CoreDNS as other clusters run it: pods in kube-system behind the Service kube-dns."""
    labels = {"k8s-app": "kube-dns"}
    metadata = {"name": "coredns", "namespace": NAMESPACE, "labels": labels}
    protocols = (("dns", "UDP"), ("dns-tcp", "TCP"))
    container = {
        "name": "coredns",
        "image": image,
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": name, "protocol": protocol, "containerPort": 53}
            for name, protocol in protocols
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        # The resolvers of the host, to which CoreDNS forwards other names.
        "dnsPolicy": "Default",
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            # Port 53 without a capability.
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        },
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    digest = hashlib.sha256(COREFILE.encode()).hexdigest()[:12]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {"Corefile": COREFILE},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": {"version": digest}},
                    "spec": pod,
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": NAMESPACE, "labels": labels},
            "spec": {
                "clusterIP": DNS_SERVICE,
                "selector": labels,
                "ports": [
                    {"name": name, "protocol": protocol, "port": 53} for name, protocol in protocols
                ],
            },
        },
    ]


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
