"""The verify container of a serving pod; the pod becomes ready after the verification passed.

It reads the same files as vLLM and sends requests to vLLM over the pod's loopback interface. It
requests little: reading and comparing take a fraction of a core for some seconds.
"""

from dataclasses import dataclass
from typing import Any

from finetune_api.contracts.pod_security import container_security
from finetune_api.contracts.ports import VERIFIER_METRICS
from finetune_operator.manifests import pod, vllm
from finetune_operator.manifests.gpu import devices
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

CONTAINER = "verify"
WORK = "/work"
RESOURCES = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}


@dataclass(frozen=True, kw_only=True)
class Manifests:
    """SHA-256 (hex) of the manifests of a build, from the ledger.

    served: of the merged model, or of the base model if the adapter is served. reference: None if
    the training recorded none.
    """

    served: str
    adapter: str
    reference: str | None


def container(job: Object, target: TargetRevision, manifests: Manifests) -> dict[str, Any]:
    """Return the container; it mounts the volume ``work``."""
    config, serving = target.config, target.resolved.spec.serving
    dtype = config.serving.dtype or ("auto" if serving.mode == "merged" else serving.dtype)
    return {
        "name": CONTAINER,
        "image": config.images.operator,
        "imagePullPolicy": config.image_pull_policy,
        "command": ["python", "-m", "finetune_verify"],
        "args": [
            *("--work", WORK, "--revision", target.resolved.digest),
            *("--build", target.build, "--model", vllm.names(job, target)[0]),
            *("--served-manifest", manifests.served, "--adapter-manifest", manifests.adapter),
            *(("--reference-manifest", reference) if (reference := manifests.reference) else ()),
            *("--mode", serving.mode, "--dtype", dtype),
            *("--endpoint", f"http://127.0.0.1:{vllm.PORT}", "--port", str(VERIFIER_METRICS)),
        ],
        "env": [
            *pod.environment(devices.HIDDEN),
            *pod.secret("VLLM_API_KEY", serving.api_key_secret_ref),
            pod.UID,
        ],
        "ports": [{"name": "verify", "containerPort": VERIFIER_METRICS, "protocol": "TCP"}],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "verify"},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
        },
        "resources": RESOURCES,
        "securityContext": container_security(read_only_root=True),
        "terminationMessagePolicy": "File",
        "volumeMounts": [{"name": "work", "mountPath": WORK, "readOnly": True}],
    }
