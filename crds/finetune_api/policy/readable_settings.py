"""What users can read about the settings of the operator: a ConfigMap that the chart renders.

It has no credentials, and none of the settings that jobs do not depend on.
"""

from typing import Any

from pydantic import ConfigDict, Field

from finetune_api.base import CamelModel
from finetune_api.policy.limits import Limits

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
    usage_recorded: bool = False
