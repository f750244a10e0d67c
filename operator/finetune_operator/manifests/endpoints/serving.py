"""The Deployment of an endpoint: vLLM, and the gate in front of it.

docs/development/shared-endpoint-gate.md lists what the gate expects of the pod around it. vLLM has
no port: it listens on a Unix socket that only the gate and it can see.
"""

from typing import Any

from finetune_api.contracts import vllm_lora
from finetune_api.contracts.endpoint import BASE
from finetune_api.contracts.pod_security import container_security
from finetune_api.contracts.ports import GATE, VERIFIER_METRICS
from finetune_api.v1alpha1.endpoints.names import base_name
from finetune_api.v1alpha1.endpoints.status import PreparedBase
from finetune_operator.manifests import pod, vllm
from finetune_operator.manifests.endpoints.objects import WANTED
from finetune_operator.manifests.gpu import devices
from finetune_operator.objects import endpoints, naming
from finetune_operator.revisions.sharing.settings import TargetEndpoint
from finetune_operator.types import Object

GATE_CONTAINER = "gate"
ENGINE = "/run/engine"
SOCKET = f"{ENGINE}/vllm.sock"
CLAIM = "/claim"
COPIES = "/copies"
NAMES = "/etc/finetune/names"
KEYS = "/etc/finetune/keys"
START = 'rm -f "$0" && exec "$@"'
"""A socket file survives a crash, and vLLM does not start while there is one."""
GATE_RESOURCES = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"memory": "1Gi"},
}
"""The gate holds at most 64 MiB of requests and 128 MiB of answers, and compares the scores of one
adapter at a time."""


def deployment(
    endpoint: Object,
    target: TargetEndpoint,
    base: PreparedBase,
    *,
    public_key: str,
    sequence: int,
    replicas: int = 1,
) -> dict[str, Any]:
    """Return the Deployment of one pod, which is stopped before it is replaced.

    public_key: of the operator, in PEM format; sequence: lowest number of a list of names that a
    new pod accepts; replicas: 0 while a budget allows no pod.
    """
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": naming.metadata(
            endpoint,
            endpoints.deployment_name(endpoint["metadata"]["name"]),
            _labels(endpoint),
        ),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": endpoints.selector(endpoint, endpoints.SERVING)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
            },
            "progressDeadlineSeconds": startup_seconds(base) + vllm.PENDING_SECONDS,
            "template": template(endpoint, target, base, public_key=public_key, sequence=sequence),
        },
    }


def template(
    endpoint: Object,
    target: TargetEndpoint,
    base: PreparedBase,
    *,
    public_key: str,
    sequence: int,
) -> dict[str, Any]:
    """Return the pod template."""
    claim = {"claimName": endpoints.object_name(endpoint["metadata"]["name"]), "readOnly": True}
    keys = target.spec.access.keys_secret_ref
    names = {"name": endpoints.object_name(endpoint["metadata"]["name"])}
    volumes: list[dict[str, Any]] = [
        {"name": "work", "persistentVolumeClaim": claim},
        {"name": "engine", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "copies", "emptyDir": {}},
        {"name": "names", "configMap": names},
        pod.scratch(),
        {
            "name": "shm",
            "emptyDir": {"medium": "Memory", "sizeLimit": target.config.serving.shm_size},
        },
    ]
    if keys is not None:
        # Without the Secret the pod starts, and no name answers.
        volumes.append({"name": "keys", "secret": {"secretName": keys.name, "optional": True}})
    return {
        "metadata": {"labels": _labels(endpoint)},
        "spec": {
            **pod.spec(target.config, target.resolved, gpu=True),
            "terminationGracePeriodSeconds": vllm.GRACE_SECONDS,
            "containers": [
                _vllm(endpoint, target, base),
                _gate(endpoint, target, base, public_key=public_key, sequence=sequence),
            ],
            "volumes": volumes,
        },
    }


def served_base(endpoint: Object) -> str:
    """Return the name under which vLLM serves the base, to the gate only."""
    return base_name(endpoint["metadata"]["name"])


def startup_seconds(base: PreparedBase) -> int:
    """Return the time limit from the start of the container to readiness, in seconds."""
    return vllm.startup_seconds(vllm.ServedModel(base_bytes=base.bytes))


def _labels(endpoint: Object) -> dict[str, str]:
    return endpoints.labels(endpoint, component=endpoints.SERVING, stage=endpoints.SERVING)


def _vllm(endpoint: Object, target: TargetEndpoint, base: PreparedBase) -> dict[str, Any]:
    config, spec = target.config, target.spec
    return {
        "name": vllm.CONTAINER,
        "image": config.images.serving,
        "imagePullPolicy": config.image_pull_policy,
        "command": ["/bin/sh", "-c", START, SOCKET, *config.serving.command],
        "args": [
            *("--served-model-name", served_base(endpoint)),
            *("--gpu-memory-utilization", str(spec.gpu_memory_utilization)),
            *_parsers(target),
            *("--shutdown-timeout", str(vllm.DRAIN_SECONDS)),
            *config.serving.args,
            # Last, so that no argument of the chart replaces what the gate relies on.
            *_contract(target, base),
        ],
        "env": pod.environment(
            {
                **pod.WRITABLE_CACHES,
                **pod.OFFLINE,
                **vllm.QUIET,
                **config.serving.env,
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            }
        ),
        **vllm.probes(path="/engine/health", port=VERIFIER_METRICS, startup=startup_seconds(base)),
        # The gate is removed from the endpoints of the Service, and then ends the running requests.
        "lifecycle": {"preStop": {"sleep": {"seconds": vllm.PRESTOP_SECONDS}}},
        "resources": pod.resources(spec.resources.serve, gpu=config.gpu),
        "securityContext": container_security(read_only_root=False),
        "volumeMounts": [
            {"name": "work", "mountPath": vllm.MODEL, "subPath": BASE, "readOnly": True},
            {"name": "engine", "mountPath": ENGINE},
            {"name": "copies", "mountPath": COPIES, "readOnly": True},
            {"name": "scratch", "mountPath": pod.SCRATCH},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 (a volume of this pod)
        ],
    }


def _parsers(target: TargetEndpoint) -> list[str]:
    spec = target.spec
    arguments = []
    if spec.tool_call_parser is not None:
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", spec.tool_call_parser]
    if spec.reasoning_parser is not None:
        arguments += ["--reasoning-parser", spec.reasoning_parser]
    return arguments


def _contract(target: TargetEndpoint, base: PreparedBase) -> list[str]:
    spec, lora = target.spec, target.spec.lora
    length = spec.max_model_len
    return [
        *("--dtype", target.dtype(base)),
        *(() if length is None else ("--max-model-len", str(length))),
        *("--max-num-seqs", str(vllm_lora.ENDPOINT_REQUESTS)),
        *("--enable-lora", "--max-lora-rank", str(vllm_lora.reserved_rank(lora.max_rank))),
        *("--max-loras", str(vllm_lora.slots(lora.active))),
        *("--max-cpu-loras", str(vllm_lora.kept(lora.max_adapters))),
        *("--lora-target-modules", *(base.modules or ())),
        *("--enable-prompt-tokens-details", "--trust-request-chat-template"),
        *("--uds", SOCKET),
    ]


def _gate(
    endpoint: Object,
    target: TargetEndpoint,
    base: PreparedBase,
    *,
    public_key: str,
    sequence: int,
) -> dict[str, Any]:
    config, lora = target.config, target.spec.lora
    keys = target.spec.access.keys_secret_ref is not None
    return {
        "name": GATE_CONTAINER,
        "image": config.images.operator,
        "imagePullPolicy": config.image_pull_policy,
        "command": ["python", "-m", "finetune_gate"],
        "args": [
            *("--endpoint", endpoint["metadata"]["uid"], f"--public-key={public_key}"),
            *("--min-sequence", str(sequence), "--wanted", f"{NAMES}/{WANTED}"),
            *(("--keys", KEYS) if keys else ()),
            *("--socket", SOCKET, "--claim", CLAIM, "--copies", COPIES),
            *("--base", f"{CLAIM}/{BASE}", "--base-manifest", str(base.manifest)),
            *("--base-kind", target.spec.base, "--base-name", served_base(endpoint)),
            *("--dtype", target.dtype(base), "--modules", *(base.modules or ())),
            *("--max-rank", str(lora.max_rank), "--max-adapters", str(lora.max_adapters)),
            *("--max-active", str(lora.active), "--capacity", str(vllm_lora.ENDPOINT_REQUESTS)),
            *("--max-wait", str(lora.max_wait_seconds)),
        ],
        "env": [*pod.environment(devices.HIDDEN), pod.UID],
        "ports": [
            {"name": "http", "containerPort": GATE, "protocol": "TCP"},
            {"name": "operator", "containerPort": VERIFIER_METRICS, "protocol": "TCP"},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "operator"},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": "operator"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": vllm.PRESTOP_SECONDS}}},
        "resources": GATE_RESOURCES,
        "securityContext": container_security(read_only_root=True),
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "work", "mountPath": CLAIM, "readOnly": True},
            {"name": "engine", "mountPath": ENGINE},
            {"name": "copies", "mountPath": COPIES},
            {"name": "names", "mountPath": NAMES, "readOnly": True},
            *([{"name": "keys", "mountPath": KEYS, "readOnly": True}] if keys else []),
        ],
    }
