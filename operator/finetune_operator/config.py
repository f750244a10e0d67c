"""The operator's configuration: the file that the chart renders, read once at start."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from finetune_api.model import CamelModel


class Images(CamelModel):
    """Images of the pods that a job consists of, with tag or digest."""

    trainer: str
    serving: str
    operator: str
    """Also that of the container that verifies what is served."""


class Hub(CamelModel):
    """The model hub; an empty endpoint means the public one."""

    endpoint: str = ""


class ServingConfig(CamelModel):
    """How the serving image is started. ``dtype`` overrides the merged model's own."""

    command: list[str] = Field(default_factory=lambda: ["vllm", "serve", "/model"])
    args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    dtype: str = ""
    shm_size: str = "2Gi"


class OperatorConfig(CamelModel):
    """All settings.

    ``defaults`` is a partial FineTuneJob spec, below the user's values and above the built-in ones.
    ``operator_namespace`` is where the operator reads metrics from, and where the Lease
    ``lease_name`` is that all replicas share; ``monitoring_namespace`` is where Prometheus reads
    them from, empty means that none does. ``namespaces`` are those whose jobs are run; none named
    means all.
    """

    operator_namespace: str = "finetune-system"
    lease_name: str = "finetune-operator"
    namespaces: list[str] = Field(default_factory=list)
    monitoring_namespace: str = ""
    images: Images
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: list[str] = Field(default_factory=list)
    hub: Hub = Hub()
    serving: ServingConfig = ServingConfig()
    defaults: dict[str, Any] = Field(default_factory=dict)
    log_level: str = "info"

    @classmethod
    def load(cls, path: Path) -> "OperatorConfig":
        """Read the file. Raises OSError, yaml.YAMLError or pydantic.ValidationError."""
        return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
