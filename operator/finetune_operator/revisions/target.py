"""The target revision: which revision a spec asks for, and the configuration frozen at its start.

A revision's ConfigMap is immutable and holds two documents: ``job.json``, which the trainer reads,
and ``operator.json``, the configuration (images, serving command, defaults) that the revision was
started with. The present spec is resolved with each retained revision's own defaults first, so an
upgrade or a changed chart value never looks like an edit.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from finetune_api.base import Values
from finetune_api.defaulting import InvalidSpec, Resolved, UnknownField, effective_defaults, resolve
from finetune_operator.config import OperatorConfig
from finetune_operator.objects import naming
from finetune_operator.revisions.versions import UnsupportedVersion
from finetune_operator.types import Object

LIVE = {"lease_name", "watch_namespaces", "scraper_namespaces", "egress"}
"""Settings of the operator and of NetworkPolicies, which are not frozen: the present ones apply."""
JOB_FILE = "job.json"
OPERATOR_FILE = "operator.json"
REACHED_BY: Any = {
    "token_secret_ref": True,
    "ca_config_map_ref": True,
    "s3": {"region": True, "secret_ref": True},
}
"""Fields that say how a source is reached. An edit does not change the revision: each new pod gets
the present values."""
REMEMBERED = 4096
"""Resolved specs that are kept in memory."""
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class TargetRevision:
    """The revision that the spec asks for, resolved."""

    resolved: Resolved
    config: OperatorConfig
    """The configuration that the revision was started with; its defaults are complete."""

    @property
    def revision(self) -> str:
        """Name of the revision: 8 hex digits."""
        return self.resolved.revision

    @property
    def build(self) -> str:
        """Name of the build: 8 hex digits."""
        return self.resolved.build


def resolve_target(
    job: Object, configmaps: Iterable[Object], config: OperatorConfig
) -> TargetRevision:
    """Return the revision that the job's spec asks for, a retained one if it is equal.

    Raises InvalidSpec if the spec cannot be run, UnsupportedVersion if an operator of another
    version started the current revision and its configuration cannot be read here: to resolve the
    spec without it would look like an edit, and train again.
    """
    frozen = _frozen(job, configmaps)
    current = job.get("status", {}).get("revision")
    for revision in sorted(frozen, key=lambda name: name != current):
        try:
            settings = _read(revision, frozen[revision])
            resolved = _resolve(job, revision, settings.defaults)
        except UnsupportedVersion:
            if revision == current:
                raise
            continue
        except UnknownField as error:
            if revision == current:
                raise _unknown_field(job, revision, config, error) from error
            continue
        except InvalidSpec:
            # An old chart default may conflict with the present spec; the new ones decide.
            continue
        if resolved.revision == revision:
            return TargetRevision(resolved=resolved, config=settings)
    defaults = _effective(config)
    resolved = _resolve(job, "", defaults)
    if resolved.revision in frozen:
        settings = _read(resolved.revision, frozen[resolved.revision])
        return TargetRevision(resolved=resolved, config=settings)
    return TargetRevision(
        resolved=resolved, config=config.model_copy(update={"defaults": defaults})
    )


def resolve_retained(
    job: Object, configmaps: Iterable[Object], target: TargetRevision, revision: str, build: str
) -> TargetRevision | None:
    """Return a retained revision, to be served with the serving fields of the present spec.

    Only its names, its configuration, and the fields of the edit classes roll and retry are valid.
    Returns None if its ConfigMap is gone.
    """
    text = _frozen(job, configmaps).get(revision)
    if text is None:
        return None
    resolved = replace(target.resolved, revision=revision, build=build)
    return TargetRevision(resolved=resolved, config=_read(revision, text))


def _frozen(job: Object, configmaps: Iterable[Object]) -> dict[str, str]:
    return {
        revision: configmap["data"][OPERATOR_FILE]
        for configmap in configmaps
        if naming.owned_by(job, configmap)
        and (revision := naming.label(configmap, naming.REVISION))
    }


def _unknown_field(
    job: Object, revision: str, config: OperatorConfig, error: UnknownField
) -> InvalidSpec | UnsupportedVersion:
    """Return the error to raise for a field that this version does not have.

    If it is in the spec, the user can change it; an edit cannot change the frozen defaults.
    """
    try:
        resolve(job["spec"], _effective(config))
    except UnknownField:
        return InvalidSpec(
            f"{error}. An operator that supports it started revision {revision}; upgrade this "
            "operator."
        )
    except InvalidSpec:
        pass
    return UnsupportedVersion(f"the frozen configuration of revision {revision}", str(error))


# Most reconciles resolve the same spec with the same defaults again, which takes pydantic longer
# than the rest of the plan.


@lru_cache(maxsize=4096)
def _read(revision: str, text: str) -> OperatorConfig:
    """Return a frozen configuration. Raises UnsupportedVersion if it cannot be read."""
    try:
        # A setting that this version no longer has does not make a revision unreadable.
        return OperatorConfig.model_validate_json(text, extra="ignore")
    except ValidationError as error:
        finding = error.errors()[0]
        place = ".".join(str(step) for step in finding["loc"])
        raise UnsupportedVersion(
            f"the frozen configuration of revision {revision}", f"{place}: {finding['msg']}"
        ) from error


_memory: OrderedDict[tuple[str, str], tuple[Any, Any]] = OrderedDict()
"""Results by uid of the job and revision, each with its inputs."""


def _remembered(key: tuple[str, str], inputs: Any, compute: Callable[[], Result]) -> Result:
    """Return the last result for a key if its inputs are equal, otherwise compute it."""
    known = _memory.get(key)
    if known is not None and known[0] == inputs:
        return cast(Result, known[1])
    result = compute()
    _memory[key] = (inputs, result)
    _memory.move_to_end(key)
    if len(_memory) > REMEMBERED:
        _memory.popitem(last=False)
    return result


def _resolve(job: Object, revision: str, defaults: Values) -> Resolved:
    """Return the job's spec resolved with a revision's defaults."""
    spec = job["spec"]
    key = (str(job["metadata"]["uid"]), revision)
    return _remembered(key, (spec, defaults), lambda: resolve(spec, defaults))


def _effective(config: OperatorConfig) -> Values:
    """Return the present defaults, complete."""
    defaults = config.defaults
    return _remembered(("", "defaults"), defaults, lambda: effective_defaults(defaults))
