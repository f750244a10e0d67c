"""The plan of one job: what the operator does with a manifest, compared with a state."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from pydantic import ValidationError

from finetune_api import KIND
from finetune_api.base import Values
from finetune_api.contracts.cost import Range
from finetune_api.defaulting import InvalidSpec, Resolved, effective_defaults
from finetune_api.edits import targets
from finetune_api.edits.changes import Change, changes
from finetune_api.edits.effects import Effect, Ledger, effect_of, effects
from finetune_api.layering import without_nulls
from finetune_api.profile_defaults import over_chart, own_defaults
from finetune_api.v1alpha1.profile import PROFILE_KIND, Price
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_api.validation import findings
from finetune_cli.offline import price as prices
from finetune_cli.offline.job_file import SpecFile
from finetune_cli.planning import consequences, verdicts
from finetune_cli.planning.state import Object, State, UnknownProfile, group, items, spec_of
from finetune_cli.planning.verdicts import Answer, Options, Verdict


class Code(IntEnum):
    """Exit codes, with the larger one taking precedence."""

    HARMLESS = 0
    TRAINS = 3
    REJECTED = 4
    INVALID = 64


@dataclass(frozen=True, kw_only=True)
class Line:
    """A changed field, and the effect of its change."""

    change: Change
    effect: Effect


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What happens to a job. ``new``: it does not exist yet."""

    file: str
    namespace: str
    name: str
    new: bool = False
    errors: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    effects: frozenset[Effect] = frozenset({Effect.NOTHING})
    revision: str | None = None
    """Name of the revision after the edit."""
    returns: str = ""
    """What an edit returns to, as a sentence."""
    discarded: str | None = None
    endpoint: str = ""
    fit: Verdict | None = None
    seconds: Range | None = None
    price: Price | None = None
    policy: Verdict | None = None
    budget: Verdict | None = None
    warnings: tuple[str, ...] = field(default=())

    @property
    def trains(self) -> bool:
        """Whether a revision is trained."""
        return self.new or Effect.RETRAIN in self.effects

    @property
    def code(self) -> Code:
        """The exit code."""
        if self.errors:
            return Code.INVALID
        answers = (self.fit, self.policy, self.budget)
        if any(verdict is not None and verdict.answer is Answer.NO for verdict in answers):
            return Code.REJECTED
        return Code.TRAINS if self.trains else Code.HARMLESS


@dataclass(frozen=True, kw_only=True)
class _Layers:
    """The defaults of a job: those of a new revision, None if the profile is not known."""

    present: Values | None
    own: Values
    profile: Object | None
    problem: str = ""


def plan(document: Values, file: str, namespace: str, state: State, options: Options) -> JobPlan:
    """Return the plan of a manifest. Raises WrongCall for an invalid price."""
    metadata = document.get("metadata")
    written = metadata if isinstance(metadata, dict) else {}
    name, where = str(written.get("name", "?")), str(written.get("namespace") or namespace)
    made = JobPlan(file=file, namespace=where, name=name)
    if errors := tuple(map(str, findings(document))):
        return replace(made, errors=errors)
    try:
        return _valid(made, spec_of(document), state, options)
    except targets.UnreadableLedger as error:
        problem = (
            f"the status of {KIND} {name} cannot be read ({error}): install ftj in the version of "
            "the operator"
        )
    except InvalidSpec as error:
        problem = str(error)
    return replace(made, errors=(problem,))


def _valid(made: JobPlan, spec: Values, state: State, options: Options) -> JobPlan:
    live = state.job(made.namespace, made.name)
    status = group(live or {}, "status")
    records = targets.records(items(status, "revisions"))
    current = status.get("revision")
    layers = _layers(state, spec)
    after = _target(spec, records, current, layers)
    if after is None:
        return replace(made, errors=(f"spec.profile: {layers.problem}",))
    before = None
    if live is not None:
        former = _layers(state, spec_of(live))
        before = _target(spec_of(live), records, current, former)
        if before is None:
            made = replace(made, warnings=(_without_profile(former),))
            without = replace(former, present=effective_defaults(_chart(state)))
            before = _target(spec_of(live), records, current, without)
    ledger = Ledger(records=records, serving=group(status, "serving").get("build"))
    price = _price(options, layers.profile, after)
    made = replace(
        made,
        new=before is None,
        revision=after.revision,
        price=price,
        policy=verdicts.policy(after, state),
        warnings=(*made.warnings, *_warnings(state, live, records)),
    )
    if live is None or before is None:
        made = replace(made, endpoint=consequences.endpoint((), None, after, {}))
    else:
        made = _edited(made, spec_of(live), spec, before, after, ledger, status, state)
    record = None if before is None else ledger.record(before.digest)
    return _estimated(made, after, record, state, options, layers.profile)


def _edited(
    made: JobPlan,
    old: Values,
    new: Values,
    before: Resolved,
    after: Resolved,
    ledger: Ledger,
    status: Values,
    state: State,
) -> JobPlan:
    """Return the plan of an edit with its changes and their effects."""
    edit_effects = effects(before, after, ledger, other_card=_card(state, old) != _card(state, new))
    lines = tuple(
        Line(change=change, effect=effect_of(change, edit_effects))
        for change in changes(before.spec, after.spec, old, new)
    )
    return replace(
        made,
        effects=edit_effects,
        lines=lines,
        returns=_returns(before, after, ledger),
        discarded=(
            consequences.discarded(status, ledger.record(before.digest))
            if before.digest != after.digest
            else None
        ),
        endpoint=consequences.endpoint(edit_effects, before, after, status),
    )


def _estimated(
    made: JobPlan,
    after: Resolved,
    record: Revision | None,
    state: State,
    options: Options,
    profile: Object | None,
) -> JobPlan:
    """Return the plan with the estimate, if GPU pods start with other values.

    record: of the revision before the edit.
    """
    if not made.trains and not made.effects & {Effect.ROLL, Effect.REMERGE}:
        return made
    file = SpecFile(name=made.name, namespace=made.namespace, resolved=after, configmaps={})
    same_rows = not any(
        line.change.path[0] in ("dataset", "datasets", "model") for line in made.lines
    )
    data = None if record is None or not same_rows else record.data
    fit = verdicts.fit(file, options, state, profile, data, made.price)
    if not made.trains:
        return replace(made, fit=fit.verdict)
    limit = verdicts.limit_of(after.spec, made.price)
    return replace(
        made,
        fit=fit.verdict,
        seconds=fit.seconds,
        budget=verdicts.budget(state, made.namespace, fit.seconds, limit, made.price),
    )


def _layers(state: State, spec: Values) -> _Layers:
    chart = _chart(state)
    try:
        profile = state.profile(spec.get("profile"))
    except UnknownProfile as error:
        return _Layers(present=None, own={}, profile=None, problem=str(error))
    if profile is None:
        return _Layers(present=effective_defaults(chart), own={}, profile=None)
    try:
        own = own_defaults(spec_of(profile))
        present = effective_defaults(over_chart(own, chart))
    except Exception as error:
        # No schema describes the defaults of a profile.
        name = group(profile, "metadata").get("name")
        problem = f"{PROFILE_KIND} {name} is not valid: spec.{error}"
        return _Layers(present=None, own={}, profile=profile, problem=problem)
    return _Layers(present=present, own=own, profile=profile)


def _chart(state: State) -> Values:
    """Return the defaults of the chart, empty if they are not known."""
    return without_nulls(state.settings.defaults) if state.settings is not None else {}


def _without_profile(former: _Layers) -> str:
    return (
        f"The defaults of the present spec are not known ({former.problem}), and no retained "
        "revision has it: the plan completes it without a profile, so it may list fields that do "
        "not change."
    )


def _target(
    spec: Values, records: Sequence[Revision], current: str | None, layers: _Layers
) -> Resolved | None:
    candidates = targets.candidates(records, current)
    return targets.target(spec, candidates, current=current, present=layers.present, own=layers.own)


def _card(state: State, spec: Values) -> Any:
    try:
        profile = state.profile(spec.get("profile"))
    except UnknownProfile:
        return None
    return None if profile is None else spec_of(profile).get("card")


def _returns(before: Resolved, after: Resolved, ledger: Ledger) -> str:
    """Return what is reused of a revision that the edit returns to, empty if there is none."""
    record = ledger.record(after.digest)
    if record is None or after.digest == before.digest:
        return ""
    if ledger.is_trained(after.digest):
        return f"The job returns to revision {record.revision}, which is trained already."
    return f"The job returns to revision {record.revision}, and resumes its training."


def _price(options: Options, profile: Object | None, after: Resolved) -> Price | None:
    if options.price is not None:
        return prices.of(options.price, None, after.spec)
    written = None if profile is None else spec_of(profile).get("price")
    try:
        return None if written is None else Price.model_validate(written, by_name=False)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidSpec(f"the price of the {PROFILE_KIND} is not valid: {message}") from None


def _warnings(state: State, live: Object | None, records: Sequence[Revision]) -> tuple[str, ...]:
    warnings = []
    if state.settings is None:
        warnings.append(
            "The settings of the operator cannot be read, so fields that the spec omits are "
            "completed with built-in values only, and limits are not checked."
        )
    if live is not None and not records:
        warnings.append(
            "The state has no revisions of this job: the plan assumes that all of its work is "
            "complete."
        )
    return tuple(warnings)
