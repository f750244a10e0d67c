"""The security contexts of all pods that mount a job's volume: restricted Pod Security Standard."""

from typing import Any

USER = 1000
"""User and group of the processes in the pods. They own the files on the volume."""


def pod_security() -> dict[str, Any]:
    """Return the ``securityContext`` of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, read_only_root: bool) -> dict[str, Any]:
    """Return the ``securityContext`` of a container.

    The root filesystem of GPU containers stays writable: some NVIDIA container hooks write to /etc.
    """
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": read_only_root,
    }
