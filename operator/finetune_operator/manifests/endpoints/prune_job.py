"""The Job that removes the folder of a deleted job from the claim of an endpoint.

Its pod mounts nothing but the folders of the jobs, and has no connections and no credentials. It
runs on the node of the serving pod, which holds a claim that only one node can mount, and uses the
image of the gate, which this node has. ``rm`` follows no symbolic link.
"""

from typing import Any

from finetune_api.contracts.endpoint import ADAPTERS
from finetune_api.contracts.pod_security import container_security
from finetune_operator.manifests import pod
from finetune_operator.manifests.jobs import one_pod
from finetune_operator.objects import endpoints, naming
from finetune_operator.revisions.sharing.settings import TargetEndpoint
from finetune_operator.types import Object

RETRIES = 3
FOLDERS = "/jobs"
RESOURCES = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}


def render(endpoint: Object, target: TargetEndpoint, uid: str) -> dict[str, Any]:
    """Return the Job. uid: of the deleted FineTuneJob, and name of its folder."""
    labels = endpoints.labels(
        endpoint, component=endpoints.PRUNE, stage=endpoints.PRUNE, **{"job-uid": uid}
    )
    name = endpoints.prune_job_name(endpoint["metadata"]["name"], uid)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": naming.metadata(endpoint, name, labels),
        "spec": {
            **one_pod(retries=RETRIES),
            "template": {"metadata": {"labels": labels}, "spec": _pod(endpoint, target, uid)},
        },
    }


def _pod(endpoint: Object, target: TargetEndpoint, uid: str) -> dict[str, Any]:
    config = target.config
    common = pod.spec(config, target.resolved, gpu=False)
    claim = {"claimName": endpoints.object_name(endpoint["metadata"]["name"])}
    beside = {
        "labelSelector": {"matchLabels": endpoints.selector(endpoint, endpoints.SERVING)},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {
        **common,
        "affinity": {
            **common.get("affinity", {}),
            "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [beside]},
        },
        "restartPolicy": "Never",
        "containers": [
            {
                "name": endpoints.PRUNE,
                "image": config.images.operator,
                "imagePullPolicy": config.image_pull_policy,
                "command": ["rm", "-rf", "--", f"{FOLDERS}/{uid}"],
                "resources": RESOURCES,
                "securityContext": container_security(read_only_root=True),
                "volumeMounts": [{"name": "work", "mountPath": FOLDERS, "subPath": ADAPTERS}],
            }
        ],
        "volumes": [{"name": "work", "persistentVolumeClaim": claim}],
    }
