"""The Job of one attempt to prepare the base of an endpoint.

Like the prepare stage of a job, it is the only pod with credentials of the source and with egress.
It needs no GPU.
"""

from typing import Any

from finetune_api.contracts.endpoint import PREPARED
from finetune_api.contracts.exitcodes import FINAL, ExitCode
from finetune_api.contracts.pod_security import container_security
from finetune_api.contracts.ports import TRAINER_METRICS
from finetune_api.contracts.stage_request import BaseStageRequest, EndpointSettings
from finetune_api.v1alpha1.model import Model
from finetune_operator.manifests import egress, pod, sources
from finetune_operator.manifests.gpu import devices, products
from finetune_operator.manifests.jobs import CONTAINER, MIN_GRACE_SECONDS, UNDISTURBED, one_pod
from finetune_operator.manifests.stage_requests import CONFIG, WORK
from finetune_operator.objects import endpoints, naming
from finetune_operator.revisions.sharing.settings import TargetEndpoint
from finetune_operator.types import Object

RETRIES = 3
"""Restarts of the pod after an error that may pass, such as a lost connection."""


def render(endpoint: Object, target: TargetEndpoint, attempt: int) -> dict[str, Any]:
    """Return the Job."""
    labels = endpoints.labels(
        endpoint, component=endpoints.BASE, stage=endpoints.BASE, attempt=attempt
    )
    name = endpoints.base_job_name(endpoint["metadata"]["name"], attempt)
    final = [code for code in FINAL if code != ExitCode.PUBLISH_FAILED]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": naming.metadata(endpoint, name, labels),
        "spec": {
            **one_pod(retries=RETRIES, final=final),
            "template": {
                "metadata": {"labels": labels, "annotations": dict(UNDISTURBED)},
                "spec": _pod(endpoint, target),
            },
        },
    }


def request(target: TargetEndpoint) -> BaseStageRequest:
    """Return what the process does."""
    spec, config = target.spec, target.config
    model = Model.model_construct(spec.model.model_fields_set, **dict(spec.model))
    return BaseStageRequest(
        work=WORK,
        model=model,
        base=spec.base,
        dtype=spec.dtype,
        quantized_by="cuda" if config.gpu.required else "cpu",
        endpoint=EndpointSettings.of(spec),
        cards=_checked_cards(target),
        destinations=egress.destinations(config, cloud_identity=False),
        ca_certificates=config.ca_certificates,
        signatures=sources.required_signatures(target.resolved.spec, config.signatures),
    )


def _checked_cards(target: TargetEndpoint) -> tuple[str, ...]:
    """Return the GPUs for which the memory is checked.

    Arguments of the chart, such as ``--max-model-len``, can change the memory of vLLM, and the
    estimate does not know them.
    """
    if target.config.serving.args:
        return ()
    return tuple(products.cards(target.config, target.resolved))


def _pod(endpoint: Object, target: TargetEndpoint) -> dict[str, Any]:
    spec, config = target.resolved.spec, target.config
    values = {**pod.WRITABLE_CACHES, **devices.HIDDEN}
    if config.hub.endpoint:
        values["HF_ENDPOINT"] = config.hub.endpoint
    files = sources.files(spec)
    claim = {"claimName": endpoints.object_name(endpoint["metadata"]["name"])}
    return {
        **pod.spec(config, target.resolved, gpu=False),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": MIN_GRACE_SECONDS,
        "containers": [
            {
                "name": CONTAINER,
                "image": config.images.trainer,
                "imagePullPolicy": config.image_pull_policy,
                "args": [request(target).to_argument()],
                "env": [*pod.environment(values), *sources.environment(spec), pod.UID],
                "ports": [{"name": "metrics", "containerPort": TRAINER_METRICS}],
                "resources": pod.resources(target.spec.resources.prepare, gpu=None),
                "securityContext": container_security(read_only_root=True),
                "terminationMessagePolicy": "File",
                "volumeMounts": [
                    {"name": "work", "mountPath": WORK, "subPath": PREPARED},
                    *([{"name": "config", "mountPath": CONFIG, "readOnly": True}] if files else []),
                    {"name": "scratch", "mountPath": pod.SCRATCH},
                    *sources.mounts(spec),
                ],
            }
        ],
        "volumes": [
            {"name": "work", "persistentVolumeClaim": claim},
            *([{"name": "config", "projected": {"sources": files}}] if files else []),
            pod.scratch(),
            *sources.volumes(spec),
        ],
    }
