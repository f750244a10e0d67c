"""Check a resolved spec against limits. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_api.base import Values
from finetune_api.layering import Path, value_at
from finetune_api.policy import messages
from finetune_api.policy.fields import (
    API_KEY,
    GPU_SECONDS,
    IDLE_SECONDS,
    MODE,
    PROFILE,
    QUEUE,
    REPLICAS,
    SEQUENCE_LENGTH,
    SERVES,
)
from finetune_api.policy.limits import CPU_STAGE_RESOURCES, Limits, names
from finetune_api.policy.rules import NAME_RULES, NameRule
from finetune_api.revision_hash import digest
from finetune_api.v1alpha1.serving import SHARED
from finetune_api.v1alpha1.spec import FineTuneJobSpec


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A field that a limit does not allow."""

    field: Path
    message: str
    """Names field, value, allowed values, the limit and the remediation."""

    serving: bool
    """Whether the field affects serving pods."""

    key: str
    """Digest of the field and its value."""


def violations(
    spec: FineTuneJobSpec, limits: Limits, *, listed: bool = False, profile: str | None = None
) -> tuple[Violation, ...]:
    """Return every violated limit, in a fixed order. spec: the resolved one.

    listed: whether its dataset is the only entry of ``datasets``, which messages then name, like
    those of admission; profile: name of the profile that has the limits, None for the chart.
    """
    values = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    if listed and "dataset" in values:
        values["datasets"] = [values.pop("dataset")]
    return tuple(
        Violation(field=field, message=message, serving=serving, key=_key(values, field))
        for field, message, serving in _refusals(values, limits, profile)
    )


def violations_of_defaults(
    defaults: Values, limits: Limits, *, profile: str | None = None
) -> tuple[str, ...]:
    """Return the messages about defaults that no job could be started with."""
    return tuple(
        message
        for field, message, _ in _refusals(defaults, limits, profile)
        if value_at(defaults, field) is not None
    )


def serving_keys(spec: FineTuneJobSpec) -> tuple[str, ...]:
    """Return the keys of all limited fields that affect serving pods, as violations have them."""
    values = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    fields = dict.fromkeys(
        [*(rule.field for rule in NAME_RULES if rule.serving), REPLICAS, IDLE_SECONDS]
    )
    return tuple(
        _key(values, field) for field in fields if value_at(values, field) not in (None, {}, [])
    )


def _refusals(
    values: Values, limits: Limits, profile: str | None
) -> Iterator[tuple[Path, str, bool]]:
    for rule in NAME_RULES:
        if (message := _refused(rule, values, limits, profile)) is not None:
            yield rule.field, message, rule.serving
    for field, limit, most, serving in (
        (REPLICAS, "maxReplicas", limits.max_replicas, True),
        (GPU_SECONDS, "maxGpuSeconds", limits.max_gpu_seconds, False),
        (SEQUENCE_LENGTH, "maxSequenceLength", limits.max_sequence_length, False),
        (IDLE_SECONDS, "maxIdleSeconds", limits.max_idle_seconds, True),
    ):
        value = value_at(values, field)
        if most and value is not None and value > most:
            start, middle, end = messages.too_large(field, messages.origin(limit, profile))
            yield field, f"{start}{value}{middle}{most}{end}", serving
    # The endpoint of a shared job has the keys, and no job can let it become idle.
    has_own_pods = value_at(values, MODE) != SHARED
    for field, limit, required in (
        (GPU_SECONDS, "maxGpuSeconds", limits.max_gpu_seconds > 0),
        (IDLE_SECONDS, "maxIdleSeconds", limits.max_idle_seconds > 0 and has_own_pods),
        (QUEUE, "requireQueue", limits.require_queue),
        (
            API_KEY,
            "requireApiKey",
            limits.require_api_key and has_own_pods and value_at(values, SERVES) is not False,
        ),
        (PROFILE, "requireProfile", limits.require_profile),
    ):
        if required and value_at(values, field) is None:
            yield field, messages.missing(field, messages.origin(limit, profile)), False


def _refused(rule: NameRule, values: Values, limits: Limits, profile: str | None) -> str | None:
    """Return the message about the first text, in order, that a rule does not allow."""
    # A spec sets few of the limited fields, and every reconcile checks all rules.
    if (rule.limit is None and profile is not None) or not (texts := rule.selected.texts(values)):
        # The fixed list of stages without a GPU is checked with the limits of the chart.
        return None
    allowed = CPU_STAGE_RESOURCES if rule.limit is None else names(limits, rule.limit)
    refused = [text for text in texts if not allowed.permits(text)]
    if not refused:
        return None
    source = messages.WITHOUT_GPU
    if rule.limit is not None:
        source = messages.origin(rule.limit, profile)
    start, middle, end = messages.refused(rule.field, rule.hint, source)
    return f"{start}{min(refused)}{middle}{allowed}{end}"


def _key(values: Values, field: Path) -> str:
    return digest([".".join(field), value_at(values, field)])[:KEY_LENGTH]


KEY_LENGTH = 32
"""Hex digits of a key: 128 bits."""
