"""All children of some specs, as they are written to the API server."""

from collections.abc import Iterator
from typing import Any

from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, SPEC, Cluster, Thing, copied

from finetune_operator.actions import Apply, Create
from finetune_operator.config import Settings
from finetune_operator.objects import naming

MAXIMAL_SPEC: Thing = {
    "model": {
        "source": "hf://meta-llama/Meta-Llama-3-8B-Instruct",
        "revision": "5f0b02c75b57c5855da9ae460ce51323ea669d8a",
        "tokenSecretRef": {"name": "hf-model", "key": "model-token"},
    },
    "dataset": {
        "source": "hf://acme/support",
        "revision": "v2",
        "format": "alpaca",
        "columns": {"instruction": "question", "input": "context", "output": "answer"},
        "promptTemplate": "alpaca",
        "split": "train_sft",
        "validationFraction": 0,
        "maxSamples": 5000,
        "tokenSecretRef": {"name": "hf-dataset"},
    },
    "training": {
        "maxSteps": 500,
        "learningRate": 0.0001,
        "effectiveBatchSize": 32,
        "sequenceLength": 2048,
        "packing": "never",
        "trainOn": "responses",
        "seed": 7,
        "deterministic": True,
        "lora": {
            "r": 64,
            "alpha": 128,
            "dropout": 0.05,
            "targetModules": ["q_proj", "v_proj"],
            "modulesToSave": ["embed_tokens", "lm_head"],
            "useRslora": True,
            "useDora": True,
        },
        "advanced": {
            "backend": "trl",
            "microBatchSize": 4,
            "attnImplementation": "sdpa",
            "gradientCheckpointing": False,
            "padToSequenceLength": True,
            "overlong": "truncate",
            "optimizer": "adamw_torch",
            "lrSchedulerType": "linear",
            "warmupRatio": 0.1,
            "weightDecay": 0.01,
            "maxGradNorm": 0.3,
            "tf32": False,
            "quantization": {"type": "fp4", "doubleQuant": False, "computeDtype": "float16"},
            "evalSteps": 50,
            "earlyStoppingPatience": 3,
            "saveSteps": 25,
            "loggingSteps": 5,
        },
    },
    "evaluation": {
        "dataset": {
            "source": "hf://acme/support",
            "revision": "v1",
            "format": "messages",
            "columns": {"messages": "chat"},
            "split": "test_sft",
            "maxSamples": 200,
            "tokenSecretRef": {"name": "hf-test"},
        },
        "onRegression": "Serve",
    },
    "merge": {"enabled": True, "dtype": "bfloat16", "base": "original"},
    "serving": {
        "enabled": True,
        "maxModelLen": 8192,
        "gpuMemoryUtilization": 0.9,
        "extraArgs": ["--max-num-seqs=64", "--enforce-eager"],
        "servedModelNames": ["acme/support", "support"],
        "apiKeySecretRef": {"name": "support-api", "key": "key"},
        "allowedNamespaces": ["web", "batch"],
    },
    "storage": {"size": "120Gi", "storageClassName": "fast", "deletionPolicy": "Delete"},
    "resources": {
        stage: {"requests": {"cpu": "3", "memory": "20Gi"}, "limits": {"memory": "24Gi"}}
        for stage in ("prepare", "train", "merge", "serve")
    },
    "placement": {
        "zones": ["eu-west-1a", "eu-west-1b"],
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A10G", "pool": "gpu"},
        "tolerations": [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            {
                "key": "spot",
                "operator": "Equal",
                "value": "yes",
                "effect": "NoExecute",
                "tolerationSeconds": 300,
            },
        ],
    },
    "queueName": "gpu-queue",
    "workloadPriorityClassName": "research",
    "priorityClassName": "batch-high",
    "podMetadata": {"labels": {"cost-centre": "42", "acme.example/team": "support"}},
    "suspend": False,
    "runPolicy": {
        "backoffLimit": 5,
        "maxRestarts": 50,
        "maxGpuSeconds": 86400,
        "pendingDeadlineSeconds": 900,
        "prepareDeadlineSeconds": 43200,
    },
    "revisionHistoryLimit": 2,
    "rerun": "2030-01-01",
}
MAXIMAL_CONFIG = Settings.model_validate(
    {
        "operatorNamespace": "ml-operators",
        "scraperNamespaces": ["monitoring", "tracing"],
        "egress": {
            "dns": {"namespaces": ["kube-system", "openshift-dns"]},
            "cidrs": ["0.0.0.0/0", "::/0", "10.20.0.7/32"],
            "excludedCidrs": ["10.0.0.0/8", "fc00::/7"],
            "ports": [443, 8443],
            "namespaces": [{"name": "stores", "ports": [9000]}, {"name": "hub", "ports": [8000]}],
        },
        "images": {
            "trainer": "registry/trainer@sha256:" + "a" * 64,
            "serving": "registry/vllm@sha256:" + "b" * 64,
            "operator": "registry/operator@sha256:" + "e" * 64,
        },
        "imagePullPolicy": "Always",
        "imagePullSecrets": ["registry-login", "mirror-login"],
        "hub": {"endpoint": "http://hub.hub.svc.cluster.local"},
        "serving": {
            "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
            "args": ["--model", "/model", "--max-num-seqs", "8"],
            "env": {"VLLM_LOGGING_LEVEL": "WARNING"},
            "dtype": "bfloat16",
            "shmSize": "4Gi",
        },
        "policy": {"podLabels": {}},
    }
)
ADMIN_SPEC: Thing = {
    "model": {"source": "hf://demo/llama"},
    "dataset": {"source": "configmap://rows/rows.jsonl", "format": "messages"},
}
ADAPTER_SPEC: Thing = {
    **SPEC,
    "merge": {"enabled": False},
    "training": {"lora": {"r": 24}},
    "storage": {"accessMode": "ReadWriteMany"},
    "serving": {
        "mode": "adapter",
        "dtype": "bfloat16",
        "replicas": 2,
        "placement": {"nodeSelector": {"pool": "serving"}},
    },
}
ADMIN_CONFIG = CONFIG.model_copy(
    update={
        "defaults": {
            "placement": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A10G"}},
            "storage": {"size": "200Gi"},
        }
    }
)
SETS = {
    "minimal": (SPEC, CONFIG),
    "maximal": (MAXIMAL_SPEC, MAXIMAL_CONFIG),
    "chart-defaults": (ADMIN_SPEC, ADMIN_CONFIG),
    "adapter": (ADAPTER_SPEC, ADMIN_CONFIG),
}
TITLES = {
    "PersistentVolumeClaim": "volume",
    "ConfigMap": "configuration",
    "Deployment": "deployment",
    "Service": "service",
    "PodDisruptionBudget": "budget",
}


REPORTED: dict[str, Thing] = {
    "prepare": {"baseBytes": 16_060_000_000, "chatTemplate": "sha256:" + "c" * 64},
    "train": {"adaptedModules": ["down_proj", "q_proj"]},
    "merge": {"mergedDtype": "float16"},
}
"""Artifacts of the stages on which later manifests depend."""


def children(spec: Thing, config: Settings, name: str = "demo") -> dict[str, Thing]:
    """Run a job until it serves; return the objects that were created and applied, by title."""
    cluster = Cluster(spec=copied(spec), config=config, name=name)
    objects: dict[str, Thing] = {}
    merging = ("merge",) if "merge" not in spec or spec["merge"].get("enabled", True) else ()
    for stage in ("prepare", "train", *merging, "serve"):
        objects |= {title(thing): thing for thing in written(cluster)}
        if stage == "serve":
            controllers.serve(cluster)
        else:
            controllers.run(
                cluster, stage, text=controllers.message(stage, artifacts=REPORTED.get(stage))
            )
    objects |= {title(thing): thing for thing in written(cluster)}
    return objects


def written(cluster: Cluster) -> Iterator[Thing]:
    """Yield the objects that the next reconcile creates and applies."""
    for action in cluster.plan().actions:
        if isinstance(action, Create | Apply):
            yield dict(action.object)


def title(thing: Thing) -> str:
    """Return the name of a child in its golden file."""
    if thing["kind"] == "Job":
        return f"job-{thing['metadata']['labels'][naming.STAGE]}"
    if thing["kind"] == "NetworkPolicy":
        return f"policy-{thing['metadata']['name'].rsplit('-', 1)[1]}"
    return TITLES[thing["kind"]]


def template(thing: Thing) -> Any:
    """Return the pod template of a child, None if it has none."""
    return thing.get("spec", {}).get("template")
