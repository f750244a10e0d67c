"""What users can read about the settings of the operator: a ConfigMap that the chart renders.

It has no credentials, and none of the settings that jobs do not depend on.
"""

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from finetune_api.base import CamelModel
from finetune_api.policy.limits import FIELDS, Limits, Names

FILE = "settings.yaml"
"""Key in the ConfigMap."""
NAMESPACE, NAME = "finetune-system", "finetune-operator-settings"
"""Of the ConfigMap, if the chart is installed as the documentation says."""


class ReadableSettings(CamelModel):
    """The settings that decide about an edit. Fields of a later version are ignored."""

    model_config = ConfigDict(extra="ignore")

    version: str = ""
    """Of the operator."""
    digest: str = ""
    """SHA-256 digest (hex) of all settings of the operator."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    policy: Limits = Limits()
    gpu_products: list[str] = Field(default_factory=list)
    gpu_resource: str = "nvidia.com/gpu"
    """Resource that train pods and serving pods request."""
    usage_recorded: bool = False
    newer_limits: tuple[str, ...] = Field((), exclude=True)
    """Limits of a later version, which this one cannot check."""

    @model_validator(mode="before")
    @classmethod
    def _without_newer_limits(cls, value: Any) -> Any:
        policy = value.get("policy") if isinstance(value, dict) else None
        if not isinstance(policy, dict):
            return value
        readable, newer = {}, []
        for name, limit in policy.items():
            if name not in FIELDS:
                newer.append(str(name))
                continue
            readable[name] = limit
            if isinstance(limit, dict):
                newer += [f"{name}.{field}" for field in limit if field not in Names.model_fields]
                readable[name] = {k: v for k, v in limit.items() if k in Names.model_fields}
        return {**value, "policy": readable, "newerLimits": newer}
