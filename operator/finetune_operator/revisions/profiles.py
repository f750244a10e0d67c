"""Profiles on top of the settings of the chart, and the profile of a job. Pure.

The defaults, the card and the price of a profile are in the settings, which a revision freezes. Its
limits are not: they are read whenever work starts. A profile that is not valid is a value here, and
never an error: jobs wait for it, and its own status has the cause.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from finetune_api.base import Values
from finetune_api.defaulting import InvalidSpec, effective_defaults
from finetune_api.edits import retained
from finetune_api.layering import without_nulls
from finetune_api.policy.check import Violation, violations_of_defaults
from finetune_api.policy.limits import Limits, narrower
from finetune_api.profile_defaults import over_chart, own_defaults
from finetune_api.v1alpha1.profile import PROFILE_KIND, FrozenProfile, missing_profile
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.config import Settings
from finetune_operator.objects.compact.trimming import MAX_DEPTH, TOO_DEEP
from finetune_operator.revisions.documents import MOST_FROZEN_BYTES, frozen_part
from finetune_operator.types import Object

REMEMBERED = 512
"""Profiles that are parsed once, as named and as the default; more than 100 slow down admission."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a profile is not valid."""

    reason: Reason
    message: str
    """Names field, value and remediation."""


@dataclass(frozen=True, kw_only=True)
class ParsedProfile:
    """A profile on top of the settings of the chart."""

    name: str
    settings: Settings
    """Those of the chart if the profile is not valid."""
    defaults: Values
    """Of the profile alone."""
    limits: Limits | None
    """None if they cannot be read."""
    problem: Problem | None


_DEEP = Problem(
    reason=Reason.TOO_LARGE,
    message=f"spec.defaults: the values have more than {MAX_DEPTH} levels; no field of a "
    "FineTuneJob has as many: remove the nested values",
)


class UnavailableProfile(Exception):
    """The profile of a job has no values; the message names it and the remediation."""

    def __init__(self, reason: Reason, message: str) -> None:
        """``reason``: of the conditions of the job."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class SelectedProfile:
    """What the profile of a job means for it; for most jobs, the settings of the chart alone."""

    settings: Settings
    defaults: Values = field(default_factory=dict)
    """Of the profile alone."""
    limits: tuple[tuple[str, Limits], ...] = ()
    """With the names of their profiles. Those of all default profiles apply."""
    refusals: tuple[Violation, ...] = ()
    """If limits cannot be read, no attempt starts."""
    unavailable: UnavailableProfile | None = None
    """Why no new revision can start."""


def select(job: Object, profiles: Sequence[Object], chart: Settings) -> SelectedProfile:
    """Return the profile of a job.

    profiles: the one that it names, or all default profiles if it names none. The newest of these
    has the defaults, as of StorageClasses.
    """
    written = job["spec"].get("profile")
    if not profiles:
        unavailable = None
        if written is not None:
            unavailable = UnavailableProfile(Reason.PROFILE_NOT_FOUND, missing_profile(written))
        return SelectedProfile(settings=chart, unavailable=unavailable)
    parsed = [
        parse(profile, chart, by_default=written is None) for profile in sorted(profiles, key=_age)
    ]
    newest = parsed[-1]
    unavailable = None
    if newest.problem is not None:
        message = (
            f"spec.profile: {PROFILE_KIND} {newest.name} is not valid: {newest.problem.message}. "
            "Set another profile, or ask your cluster administrator to correct this one."
        )
        unavailable = UnavailableProfile(Reason.PROFILE_INVALID, message)
    return SelectedProfile(
        settings=newest.settings,
        defaults=newest.defaults,
        limits=tuple(
            (profile.name, profile.limits) for profile in parsed if profile.limits is not None
        ),
        refusals=tuple(_unreadable(profile) for profile in parsed if profile.limits is None),
        unavailable=unavailable,
    )


def has_profile(settings: Settings, job: Object) -> bool:
    """Report whether the settings of a revision are those of the profile that a job names."""
    return retained.has_profile(settings.profile, job["spec"].get("profile"))


def parse(profile: Object, chart: Settings, *, by_default: bool = False) -> ParsedProfile:
    """Return a profile on top of the settings of the chart."""
    text = json.dumps(profile["spec"], sort_keys=True)
    parsed = _parsed(profile["metadata"]["name"], text, chart, by_default)
    return replace(parsed, settings=chart, problem=_DEEP) if TOO_DEEP in profile else parsed


@lru_cache(maxsize=REMEMBERED)
def _parsed(name: str, text: str, chart: Settings, by_default: bool) -> ParsedProfile:
    spec = without_nulls(json.loads(text))
    limits: Limits | None = None
    settings, problem, defaults = chart, None, own_defaults(spec)
    try:
        limits = narrower(spec.get("limits") or {})
    except ValidationError as error:
        problem = Problem(reason=Reason.INVALID_LIMITS, message=_explained(error))
    if problem is None:
        try:
            settings = _settings(name, spec, defaults, chart, by_default=by_default)
            problem = _conflict(name, settings, limits or Limits())
        except InvalidSpec as error:
            problem = Problem(reason=Reason.INVALID_DEFAULTS, message=f"spec.{error}")
        except Exception as error:
            # No schema describes the defaults, and one profile must not stop the jobs of others.
            message = (
                f"spec.defaults: these values cannot be read ({type(error).__name__}: {error}); "
                "compare them with the fields of a FineTuneJob"
            )
            problem = Problem(reason=Reason.INVALID_DEFAULTS, message=message)
    return ParsedProfile(
        name=name,
        settings=settings if problem is None else chart,
        defaults=defaults,
        limits=limits,
        problem=problem,
    )


def _settings(
    name: str, spec: Values, defaults: Values, chart: Settings, *, by_default: bool
) -> Settings:
    """Return the settings of the chart with the values of a profile. Raises InvalidSpec."""
    # Alone first: the message is then about a value of the profile, whose types no schema checks.
    effective_defaults(defaults, strict=True)
    merged = over_chart(defaults, without_nulls(chart.defaults))
    effective_defaults(merged)
    recorded = {key: spec[key] for key in ("card", "price") if key in spec}
    changes: dict[str, Any] = {
        "defaults": merged,
        "profile": FrozenProfile(name=name, by_default=by_default, **recorded),
    }
    if "card" in spec:
        changes["gpu"] = chart.gpu.model_copy(update={"products": [spec["card"]]})
    return chart.model_copy(update=changes)


def _conflict(name: str, settings: Settings, limits: Limits) -> Problem | None:
    """Return why no job could have the defaults, although each of them is valid."""
    refused = (
        *violations_of_defaults(settings.defaults, settings.policy),
        *violations_of_defaults(settings.defaults, limits, profile=name),
    )
    if refused:
        message = f"spec.defaults: values violate limits: {' '.join(refused)}"
        return Problem(reason=Reason.INVALID_DEFAULTS, message=message)
    complete = settings.model_copy(update={"defaults": effective_defaults(settings.defaults)})
    if (size := len(frozen_part(complete).encode())) > MOST_FROZEN_BYTES:
        message = (
            f"spec.defaults: the settings of the chart and of the profile have {size} bytes "
            f"together, but at most {MOST_FROZEN_BYTES} are allowed: the operator copies them into "
            "the status of each job"
        )
        return Problem(reason=Reason.TOO_LARGE, message=message)
    return None


def required_of_jobs(profile: ParsedProfile) -> tuple[str, ...]:
    """Return the messages about built-in defaults and defaults of the chart that a limit forbids.

    Every job with the profile must set other values.
    """
    return violations_of_defaults(
        effective_defaults(profile.settings.defaults),
        profile.limits or Limits(),
        profile=profile.name,
    )


def _unreadable(profile: ParsedProfile) -> Violation:
    cause = "" if profile.problem is None else profile.problem.message
    return Violation(
        field=("profile",),
        message=f"spec.profile: the limits of {PROFILE_KIND} {profile.name} cannot be read: "
        f"{cause}. Ask your cluster administrator to correct them.",
        serving=False,
        key="",
    )


def _age(profile: Object) -> tuple[str, str]:
    metadata = profile["metadata"]
    return str(metadata.get("creationTimestamp", "")), str(metadata["name"])


def _explained(error: ValidationError) -> str:
    finding = error.errors()[0]
    steps = ".".join(str(step) for step in finding["loc"])
    return f"spec.limits.{steps}: {finding['msg'].removeprefix('Value error, ')}"
