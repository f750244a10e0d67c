"""The revision that a spec asks for, with the defaults of those that the ledger retains. Pure."""

import json
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from finetune_api.base import Values
from finetune_api.defaulting import Resolved, resolve
from finetune_api.edits.retained import Candidate, select
from finetune_api.profile_defaults import over_chart
from finetune_api.v1alpha1.profile import FrozenProfile
from finetune_api.v1alpha1.status.ledger import Revision


class UnreadableLedger(ValueError):
    """The ledger of a job has another form; the message has the cause."""


def records(revisions: Iterable[Values]) -> tuple[Revision, ...]:
    """Return the records of ``status.revisions``. Raises UnreadableLedger.

    Fields that this version lacks are ignored: a newer operator may have written them.
    """
    try:
        return tuple(Revision.model_validate(revision, extra="ignore") for revision in revisions)
    except ValidationError as error:
        raise UnreadableLedger(str(error.errors()[0]["msg"])) from error


def candidates(revisions: Sequence[Revision], current: str | None) -> list[Candidate]:
    """Return the revisions that an edit can return to, the current one first.

    Raises UnreadableLedger.
    """
    retained = []
    for record in sorted(revisions, key=lambda revision: revision.revision != current):
        if record.frozen is None:
            continue
        try:
            frozen = json.loads(record.frozen.operator)
            profile = frozen.get("profile")
            retained.append(
                Candidate(
                    record=record,
                    defaults=frozen.get("defaults") or {},
                    profile=None if profile is None else FrozenProfile.model_validate(profile),
                )
            )
        except (ValueError, AttributeError) as error:
            raise UnreadableLedger(
                f"the configuration of revision {record.revision}: {error}"
            ) from error
    return retained


def target(
    spec: Values,
    retained: Sequence[Candidate],
    *,
    current: str | None,
    present: Values | None,
    own: Values,
) -> Resolved | None:
    """Return a spec as the operator resolves it: as a retained revision, if it is equal to one.

    present: the complete defaults of a new revision, None if the profile of the job is not known;
    own: those of the profile alone. Returns None if they are needed but not known. Raises
    InvalidSpec.
    """

    def with_profile(candidate: Candidate) -> Values:
        assert present is not None, "only called if it is known"
        return over_chart(own, candidate.defaults) if candidate.profile is None else present

    selected = select(
        spec,
        retained,
        current=current,
        with_profile=None if present is None else with_profile,
        resolve=resolve,
    )
    if selected is not None:
        return selected[0]
    return None if present is None else resolve(spec, present)
