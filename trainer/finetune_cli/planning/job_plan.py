"""The plan of one job: what the operator does with a manifest, compared with a state."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from pydantic import ValidationError

from finetune_api import KIND
from finetune_api.base import Values
from finetune_api.contracts.cost import Range
from finetune_api.defaulting import InvalidSpec, Resolved
from finetune_api.edits import targets
from finetune_api.edits.changes import Change, changes
from finetune_api.edits.effects import Effect, RecordedRevisions, effect_of, effects
from finetune_api.v1alpha1.profile import PROFILE_KIND, Price, missing_profile
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_api.validation import findings
from finetune_cli.offline import price as prices
from finetune_cli.offline.job_file import SpecFile
from finetune_cli.planning import consequences, layers, verdicts
from finetune_cli.planning.layers import Layers
from finetune_cli.planning.state import Object, State, group, items, spec_of
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
    removed: bool = False
    """Whether its manifest is in none of the files any more."""
    indirect: bool = False
    """Whether only its profile is in the files."""
    errors: tuple[str, ...] = ()
    waits: Reason | None = None
    """With which the next revision waits for its profile."""
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
    missing: str = ""
    """Options with which ``seconds`` would be known."""
    price: Price | None = None
    policy: Verdict | None = None
    budget: Verdict | None = None
    warnings: tuple[str, ...] = field(default=())

    @property
    def trains(self) -> bool:
        """Whether a revision is trained."""
        return self.new or Effect.RETRAIN in self.effects

    @property
    def silent(self) -> bool:
        """Whether readers need not see it: only its profile changes, which has no effect on it."""
        affected = self.lines or self.waits is not None or self.code is not Code.HARMLESS
        return self.indirect and not affected

    @property
    def code(self) -> Code:
        """The exit code."""
        if self.errors:
            return Code.INVALID
        answers = (self.fit, self.policy, self.budget)
        if any(verdict is not None and verdict.answer is Answer.NO for verdict in answers):
            return Code.REJECTED
        return Code.TRAINS if self.trains else Code.HARMLESS


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


def plan_removed(document: Values, file: str, namespace: str, state: State) -> JobPlan:
    """Return the plan of a job whose manifest is removed from the files."""
    metadata = group(document, "metadata")
    name, where = str(metadata.get("name", "?")), str(metadata.get("namespace") or namespace)
    made = JobPlan(file=file, namespace=where, name=name, removed=True, effects=frozenset())
    live = state.job(where, name) or document
    status = group(live, "status")
    try:
        records = targets.records(items(status, "revisions"))
        before = layers.target(
            spec_of(live), records, status.get("revision"), layers.former(state, spec_of(live))
        )
    except (targets.UnreadableLedger, InvalidSpec):
        return made
    if before is None:
        return made
    record = RecordedRevisions(records=records).record(before.digest)
    return replace(
        made,
        discarded=consequences.discarded(status, record),
        endpoint=consequences.endpoint_of_removed(before),
    )


def _valid(made: JobPlan, spec: Values, state: State, options: Options) -> JobPlan:
    live = state.job(made.namespace, made.name)
    status = group(live or {}, "status")
    records = targets.records(items(status, "revisions"))
    current = status.get("revision")
    own, after, before = layers.of(state, spec), None, None
    if live is not None:
        old = spec_of(live)
        former = layers.former(state, old)
        before = layers.target(old, records, current, former)
        if before is None:
            made = replace(made, warnings=(_without_profile(former),))
            before = layers.target_without_profile(old, records, current, state)
        elif not records and spec.get("profile") == old.get("profile"):
            # The present revision keeps the defaults of its profile, although it has no record.
            kept = layers.target(spec, records, current, former)
            after = kept if kept is not None and kept.digest == before.digest else None
    after = after or layers.target(spec, records, current, own)
    if after is None:
        return replace(made, errors=(_unavailable(own, spec),), waits=own.reason)
    ledger = RecordedRevisions(records=records, serving=group(status, "serving").get("build"))
    price = _price(options, own.profile, after)
    made = replace(
        made,
        new=before is None,
        revision=after.revision,
        price=price,
        policy=verdicts.policy(after, state, spec),
        waits=own.reason,
        warnings=(*made.warnings, *_warnings(state, live, records, own)),
    )
    if live is None or before is None:
        made = replace(made, endpoint=consequences.endpoint((), None, after, {}))
    else:
        made = _edited(made, spec_of(live), spec, before, after, ledger, status, state)
    record = None if before is None else ledger.record(before.digest)
    return _estimated(made, after, record, state, options, own.profile)


def _edited(
    made: JobPlan,
    old: Values,
    new: Values,
    before: Resolved,
    after: Resolved,
    ledger: RecordedRevisions,
    status: Values,
    state: State,
) -> JobPlan:
    """Return the plan of an edit with its changes and their effects."""
    edit_effects = effects(
        before, after, ledger, other_card=layers.card(state, old) != layers.card(state, new)
    )
    lines = tuple(
        Line(change=change, effect=effect_of(change, edit_effects))
        for change in changes(before.spec, after.spec, old, new)
    )
    return replace(
        made,
        effects=edit_effects,
        lines=lines,
        returns=consequences.returned(before, after, ledger),
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
        missing=fit.missing,
        budget=verdicts.budget(state, made.namespace, fit.seconds, limit, made.price),
    )


def _unavailable(own: Layers, spec: Values) -> str:
    """Return why no revision of a spec starts."""
    if own.reason is Reason.PROFILE_NOT_FOUND:
        return missing_profile(str(spec.get("profile")))
    return f"spec.profile: {own.problem}"


def _without_profile(former: Layers) -> str:
    return (
        f"The defaults of the present spec are not known ({former.problem}), and no retained "
        "revision has it: the plan completes it without a profile, so it may list fields that do "
        "not change."
    )


def _price(options: Options, profile: Object | None, after: Resolved) -> Price | None:
    if options.price is not None:
        return prices.of(options.price)
    written = None if profile is None else spec_of(profile).get("price")
    try:
        return None if written is None else Price.model_validate(written, by_name=False)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidSpec(f"the price of the {PROFILE_KIND} is not valid: {message}") from None


def _warnings(
    state: State, live: Object | None, records: Sequence[Revision], own: Layers
) -> tuple[str, ...]:
    warnings = []
    if own.reason is not None:
        warnings.append(
            f"{own.problem[0].upper()}{own.problem[1:]}: the present revision continues, and the "
            f"next one waits with the reason {own.reason}."
        )
    if state.settings is None:
        warnings.append(
            "The settings of the operator cannot be read, so fields that the spec omits are "
            "completed with built-in values only, and the limits of the chart are not checked."
        )
    if live is not None and not records:
        warnings.append(
            "The state has no revisions of this job: the plan assumes that all of its work is "
            "complete."
        )
    return tuple(warnings)
