"""The fields of a spec that limits of the policy apply to, by their paths."""

from finetune_api.layering import Path

MODEL: Path = ("model",)
START_FROM: Path = ("training", "startFrom")
IMAGES = (MODEL, START_FROM)
"""Sources that can be an image in a registry, and never rows in a ConfigMap."""
SOURCES: tuple[Path, ...] = (
    MODEL,
    START_FROM,
    ("dataset",),
    ("datasets",),
    ("evaluation", "dataset"),
)
PUBLISH: Path = ("publish",)
MLFLOW: Path = ("tracking", "mlflow")
LABELS: Path = ("podMetadata", "labels")
ACCOUNT: Path = ("access", "serviceAccountName")
CACHE: Path = ("storage", "baseCache")
API_KEY: Path = ("serving", "apiKeySecretRef")
ENDPOINT_KEYS: Path = ("access", "keysSecretRef")
"""Of a FineTuneEndpoint; a FineTuneJob has no such field."""
REPLICAS: Path = ("serving", "replicas")
GPU_SECONDS: Path = ("runPolicy", "maxGpuSeconds")
QUEUE: Path = ("queueName",)
PROFILE: Path = ("profile",)
SEQUENCE_LENGTH: Path = ("training", "sequenceLength")
IDLE_SECONDS: Path = ("serving", "idle", "afterSeconds")
SERVES: Path = ("serving", "enabled")
MODE: Path = ("serving", "mode")
