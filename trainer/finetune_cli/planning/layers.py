"""The defaults of a job, of the chart and of its profile, and its spec with them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.base import Values
from finetune_api.defaulting import Resolved, effective_defaults
from finetune_api.edits import targets
from finetune_api.layering import without_nulls
from finetune_api.profile_defaults import over_chart, own_defaults
from finetune_api.v1alpha1.profile import PROFILE_KIND
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_cli.planning.state import (
    MissingProfile,
    Object,
    State,
    UnknownProfile,
    group,
    spec_of,
)


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The defaults of a job: those of a new revision, None if the profile is not known."""

    present: Values | None
    own: Values
    profile: Object | None
    problem: str = ""
    """Why the profile is not known."""
    reason: Reason | None = None
    """With which the operator lets a new revision wait for the profile."""


def of(state: State, spec: Values) -> Layers:
    """Return the defaults with which a new revision of a job starts."""
    chart = _chart(state)
    try:
        profile = state.profile(spec.get("profile"))
    except UnknownProfile as error:
        reason = Reason.PROFILE_NOT_FOUND if isinstance(error, MissingProfile) else None
        return Layers(present=None, own={}, profile=None, problem=str(error), reason=reason)
    if profile is None:
        return Layers(present=effective_defaults(chart), own={}, profile=None)
    try:
        own = own_defaults(spec_of(profile))
        present = effective_defaults(over_chart(own, chart))
    except Exception as error:
        # No schema describes the defaults of a profile.
        name = group(profile, "metadata").get("name")
        problem = f"{PROFILE_KIND} {name} is not valid: spec.{error}"
        reason = Reason.PROFILE_INVALID
        return Layers(present=None, own={}, profile=profile, problem=problem, reason=reason)
    return Layers(present=present, own=own, profile=profile)


def former(state: State, spec: Values) -> Layers:
    """Return the defaults of a job before the profiles in the files of the plan replace others."""
    former = of(state.former, spec)
    return of(state, spec) if former.present is None else former


def target(
    spec: Values, records: Sequence[Revision], current: str | None, layers: Layers
) -> Resolved | None:
    """Return a spec as the operator resolves it, None if its profile is needed but not known.

    Raises InvalidSpec or UnreadableLedger.
    """
    candidates = targets.candidates(records, current)
    return targets.target(spec, candidates, current=current, present=layers.present, own=layers.own)


def target_without_profile(
    spec: Values, records: Sequence[Revision], current: str | None, state: State
) -> Resolved | None:
    """Return a spec with the defaults of the chart. Raises InvalidSpec or UnreadableLedger."""
    only_chart = Layers(present=effective_defaults(_chart(state)), own={}, profile=None)
    return target(spec, records, current, only_chart)


def card(state: State, spec: Values) -> Any:
    """Return the GPU model of the profile of a job, None without one."""
    try:
        profile = state.profile(spec.get("profile"))
    except UnknownProfile:
        return None
    return None if profile is None else spec_of(profile).get("card")


def _chart(state: State) -> Values:
    """Return the defaults of the chart, empty if they are not known."""
    return without_nulls(state.settings.defaults) if state.settings is not None else {}
