"""Which revision a spec asks for, and what was frozen when it started.

A revision's ConfigMap is immutable and holds two documents: ``job.json``, which the trainer reads,
and ``operator.json``, the configuration (images, serving command, defaults) that the revision was
started with. The present spec is resolved with each present revision's own defaults first, so an
upgrade or a changed chart value never looks like an edit.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from finetune_api.defaulting import InvalidSpec, Resolved, UnknownField, effective_defaults, resolve
from finetune_operator.config import OperatorConfig
from finetune_operator.objects import naming
from finetune_operator.types import Object

LIVE = {"lease_name", "watch_namespaces", "scraper_namespaces", "egress"}
"""Settings of the operator and of policies, which no revision keeps: the present ones count."""
JOB_FILE = "job.json"
OPERATOR_FILE = "operator.json"
REACHED_BY: Any = {
    "token_secret_ref": True,
    "ca_config_map_ref": True,
    "s3": {"region": True, "secret_ref": True},
}
"""How a source is reached may change while a revision stays: each pod is told anew."""


@dataclass(frozen=True, kw_only=True)
class TargetRevision:
    """The revision that the spec asks for."""

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
    """Return the revision that ``job`` asks for, an earlier one where it is still present.

    Raises InvalidSpec where the spec cannot be run, and where a newer operator started the present
    revision: what it froze cannot be resolved here, and would look like an edit.
    """
    frozen = _frozen(job, configmaps)
    spec = json.dumps(job["spec"], sort_keys=True)
    current = job.get("status", {}).get("revision")
    for revision in sorted(frozen, key=lambda name: name != current):
        settings, old = _read(frozen[revision])
        try:
            resolved = _resolved(spec, old)
        except UnknownField as error:
            if revision == current:
                raise InvalidSpec(
                    f"{error}; revision {revision} was started by an operator that knows it: "
                    "upgrade this one"
                ) from error
            continue
        except InvalidSpec:
            # An old chart default may conflict with the present spec; the new ones decide.
            continue
        if resolved.revision == revision:
            return TargetRevision(resolved=resolved, config=settings)
    defaults = effective_defaults(config.defaults)
    resolved = _resolved(spec, json.dumps(defaults, sort_keys=True))
    if resolved.revision in frozen:
        return TargetRevision(resolved=resolved, config=_read(frozen[resolved.revision])[0])
    return TargetRevision(
        resolved=resolved, config=config.model_copy(update={"defaults": defaults})
    )


def earlier(
    job: Object, configmaps: Iterable[Object], target: TargetRevision, revision: str, build: str
) -> TargetRevision | None:
    """Return another present revision of the job, to be served as the present spec has it.

    Only what serving needs of it is right: names, configuration, and all that rolls or retries.
    """
    text = _frozen(job, configmaps).get(revision)
    if text is None:
        return None
    resolved = replace(target.resolved, revision=revision, build=build)
    return TargetRevision(resolved=resolved, config=_read(text)[0])


def _frozen(job: Object, configmaps: Iterable[Object]) -> dict[str, str]:
    return {
        revision: configmap["data"][OPERATOR_FILE]
        for configmap in configmaps
        if naming.owned_by(job, configmap)
        and (revision := naming.label(configmap, naming.REVISION))
    }


# A look at a job that has not changed asks for the same again, which pydantic takes long to answer.


@lru_cache(maxsize=4096)
def _read(text: str) -> tuple[OperatorConfig, str]:
    """Return a frozen configuration, and its defaults as JSON."""
    # A setting that this version no longer knows must not keep an old job from being read.
    config = OperatorConfig.model_validate_json(text, extra="ignore")
    return config, json.dumps(config.defaults, sort_keys=True)


@lru_cache(maxsize=4096)
def _resolved(spec: str, defaults: str) -> Resolved:
    return resolve(json.loads(spec), json.loads(defaults))
