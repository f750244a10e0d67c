"""The operator's configuration: the file that the chart renders, read once at start."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ConfigModel(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class Images(ConfigModel):
    """Images of the pods that a job consists of, with tag or digest."""

    trainer: str
    serving: str


class Hub(ConfigModel):
    """The model hub; an empty endpoint means the public one."""

    endpoint: str = ""


class ServingConfig(ConfigModel):
    """How the serving image is started. ``dtype`` overrides the merged model's own."""

    command: list[str] = Field(default_factory=lambda: ["vllm", "serve", "/model"])
    args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    dtype: str = ""
    shm_size: str = "2Gi"


class OperatorConfig(ConfigModel):
    """All settings.

    ``defaults`` is a partial FineTuneJob spec, below the user's values and above
    the built-in ones. ``operator_namespace`` is where metrics are read from.
    """

    operator_namespace: str = "finetune-system"
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
