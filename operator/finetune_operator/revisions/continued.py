"""The revision that continues while the one that the spec describes cannot start. Pure.

The profile of the job is missing or not valid, or its spec cannot be run. What a retained revision
produces is then reconciled as before: its training ends, its model is merged and served, and edits
of the other fields take effect. Its own values of the training part are in its ConfigMap alone,
which the operator does not read, so nothing here may depend on them.
"""

from dataclasses import replace

from finetune_api.base import Values
from finetune_api.defaulting import InvalidSpec, Resolved, UnknownField, resolve
from finetune_api.layering import without_nulls
from finetune_api.markers import Edit
from finetune_api.revision_hash import digest, part_of
from finetune_operator.config import Settings
from finetune_operator.objects import status_view
from finetune_operator.revisions import configurations
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.profiles import UnavailableProfile
from finetune_operator.revisions.target import CollidingNames, TargetRevision, loads_adapter
from finetune_operator.types import Object

OF_TRAINING = {"model", "dataset", "datasets", "training"}
"""Groups of the spec that a revision does not need any more once it has started."""
ANY_SOURCE: Values = {"source": "hf://any/name"}
ANY: Values = {"model": ANY_SOURCE, "dataset": {**ANY_SOURCE, "format": "alpaca"}}
"""In place of these groups."""


def continued(
    job: Object, ledger: Ledger, config: Settings, cause: UnavailableProfile | InvalidSpec
) -> TargetRevision | None:
    """Return the revision that continues, None if none has started or its names are ambiguous.

    config: the present settings; cause: why that of the spec cannot start. Raises
    UnsupportedVersion.
    """
    name = _present(job, ledger)
    frozen = None if name is None else ledger.frozen(name)
    if name is None or frozen is None or isinstance(cause, CollidingNames):
        return None
    settings = configurations.thaw(name, frozen, config)
    resolved = _resolved(job["spec"], settings.defaults)
    if resolved is None:
        return None
    if frozen.lora_rank is None and loads_adapter(resolved.spec):
        # The spec may describe the rank of another revision: the pods stay as they are.
        return None
    build = digest([frozen.digest, part_of(resolved.spec, Edit.REMERGE)])
    return TargetRevision(
        resolved=replace(resolved, digest=frozen.digest, build_digest=build),
        config=settings,
        hub=config.hub,
        frozen=frozen,
        prevented=cause,
    )


def _present(job: Object, ledger: Ledger) -> str | None:
    """Return the present revision or, if it has not started, the one that serves or is newest."""
    status = status_view.of_job(job)
    serving = None if status.serving_build is None else ledger.revision_of(status.serving_build)
    candidates = (status.revision, serving, *reversed(ledger.names()))
    return next((revision for revision in candidates if revision in ledger.revisions), None)


def _resolved(spec: Values, defaults: Values) -> Resolved | None:
    """Return a spec completed with defaults, without its training part if that cannot be run."""
    present = without_nulls(spec)
    others = {name: present[name] for name in present.keys() - OF_TRAINING}
    if "evaluation" in others:
        kept = others["evaluation"].keys() - {"dataset"}
        others["evaluation"] = {name: others["evaluation"][name] for name in kept}
    for values in (present, {**others, **ANY}):
        try:
            return resolve(values, defaults)
        except UnknownField:
            # Of a newer version, which renders the objects of the job in another way.
            return None
        except InvalidSpec:
            continue
    return None
