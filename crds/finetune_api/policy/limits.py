"""The limits of a policy as one immutable value: what FineTuneJobs may contain. Pure.

The chart value ``policy`` has the same form, and other owners of limits can carry it, too.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from finetune_api.base import CamelModel
from finetune_api.policy import patterns

Pattern = Annotated[str, AfterValidator(patterns.check)]
MOST_PATTERNS = 16
"""Patterns of a list; together with their length it bounds the messages that quote them."""
ANYTHING = ".*"


class Names(CamelModel):
    """Allowed names: those that match a pattern of ``allow``, and no pattern of ``deny``."""

    allow: tuple[Pattern, ...] = Field((ANYTHING,), max_length=MOST_PATTERNS)
    deny: tuple[Pattern, ...] = Field((), max_length=MOST_PATTERNS)

    def permits(self, name: str) -> bool:
        """Report whether a name is allowed."""
        return any(patterns.matches(pattern, name) for pattern in self.allow) and not any(
            patterns.matches(pattern, name) for pattern in self.deny
        )

    def __str__(self) -> str:
        """Return the patterns in words."""
        return (", ".join(self.allow) or "nothing") + (
            f"; except {', '.join(self.deny)}" if self.deny else ""
        )


class Limits(CamelModel):
    """What the resolved specs of FineTuneJobs may contain. The defaults suit untrusted tenants."""

    priority_classes: Names = Names(deny=("system-.*",))
    workload_priority_classes: Names = Names()
    queues: Names = Names()
    require_queue: bool = False
    require_api_key: bool = False
    """Whether each job that serves must set ``serving.apiKeySecretRef``."""

    require_profile: bool = False
    """Whether each job must set ``profile``, even if a profile is the default."""

    node_selectors: Names = Names(
        deny=(
            r"node-role\.kubernetes\.io/(control-?plane|master|etcd)=.*",
            r"kubernetes\.io/role=(control-plane|master)",
        )
    )
    """Of labels as ``key=value``."""

    tolerations: Names = Names(
        allow=(".+",),
        deny=(
            r"node-role\.kubernetes\.io/(control-?plane|master|etcd)(=.*)?",
            "CriticalAddonsOnly(=.*)?",
        ),
    )
    """Of taints as ``key=value``, ``key`` with the operator Exists, or empty without a key."""

    gpu_stage_resources: Names = Names(allow=("cpu", "memory", "ephemeral-storage", "hugepages-.*"))
    """Of train and serve, in addition to their GPU. Stages without a GPU have a fixed list."""

    service_accounts: Names = Names()
    secrets: Names = Names()
    config_maps: Names = Names()
    claims: Names = Names()
    sources: Names = Names()
    """Of the complete field ``source``, such as ``hf://org/name``."""

    hosts: Names = Names()
    """Of ``https://`` and ``oci://`` sources and S3 endpoints, in lower case and without port."""

    publish_destinations: Names = Names(allow=())
    """Of ``publish``: ``oci://`` and the repository, ``hf://`` and the repository, ``s3://`` and
    bucket and prefix, or the URL of an S3 endpoint, bucket and prefix; of ``tracking``:
    ``mlflow+`` and the URL of the server. None by default: with
    credentials of the chart, a tenant may train on models and data that must not leave the
    cluster."""

    pod_labels: Names = Names(
        allow=(r"[^/]+\.[^/]+/.+",),
        deny=(
            r"(.*\.)?(kubernetes|k8s|x-k8s|istio|linkerd|kuma)\.io/.*",
            r"(.*\.)?(argoproj\.io|azure\.workload\.identity|datadoghq\.com)/.*",
        ),
    )
    """Of keys."""

    max_replicas: int = Field(64, ge=1, le=64)
    max_gpu_seconds: int = Field(0, ge=0)
    """0 means no limit. With a limit, each job must set ``runPolicy.maxGpuSeconds``."""

    max_sequence_length: int = Field(0, ge=0)
    """0 means no limit."""

    max_idle_seconds: int = Field(0, ge=0)
    """0 means no limit. With a limit, each job must set ``serving.idle.afterSeconds``."""


FIELDS: Mapping[str, str] = {info.alias or name: name for name, info in Limits.model_fields.items()}
"""Names of the fields by their names in the chart value, such as ``podLabels``."""


def names(limits: Limits, alias: str) -> Names:
    """Return the names that a limit allows. alias: its name in the chart value."""
    allowed = getattr(limits, FIELDS[alias])
    assert isinstance(allowed, Names)
    return allowed


UNLIMITED: Mapping[str, Any] = {
    alias: {} for alias, name in FIELDS.items() if Limits.model_fields[name].annotation is Names
}
"""Limits on names that allow all of them."""


def narrower(values: Mapping[str, Any]) -> Limits:
    """Return limits that apply in addition to others: what ``values`` lack is unlimited.

    Raises ValidationError.
    """
    return Limits.model_validate({**UNLIMITED, **values}, by_name=False)


CPU_STAGE_RESOURCES = Names(allow=("cpu", "memory", "ephemeral-storage", "hugepages-.*"))
"""Resources of the stages without a GPU. A GPU there would bypass quotas and Kueue."""
