"""Which revision a spec asks for, and what was frozen when it started.

A revision's ConfigMap is immutable and holds two documents: ``job.json``, which the trainer reads,
and ``operator.json``, the configuration (images, serving command, defaults) that the revision was
started with. The present spec is resolved with each present revision's own defaults first, so an
upgrade or a changed chart value never looks like an edit.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune_api.job import JobConfig
from finetune_api.resolve import InvalidSpec, Resolved, effective_defaults, resolve
from finetune_operator.children import names
from finetune_operator.config import OperatorConfig
from finetune_operator.state import Object

JOB_FILE = "job.json"
OPERATOR_FILE = "operator.json"


@dataclass(frozen=True, kw_only=True)
class Chosen:
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


def choose(job: Object, configmaps: Iterable[Object], config: OperatorConfig) -> Chosen:
    """Return the revision that ``job`` asks for, an earlier one where it is still present.

    Raises InvalidSpec where the spec cannot be run.
    """
    frozen = {
        # A setting that this version no longer knows must not keep an old job from being read.
        revision: OperatorConfig.model_validate_json(
            configmap["data"][OPERATOR_FILE], extra="ignore"
        )
        for configmap in configmaps
        if names.owned_by(job, configmap) and (revision := names.label(configmap, names.REVISION))
    }
    current = job.get("status", {}).get("revision")
    for revision in sorted(frozen, key=lambda name: name != current):
        try:
            resolved = resolve(job["spec"], frozen[revision].defaults)
        except InvalidSpec:
            # An old administrator's default may clash with the present spec; the new ones decide.
            continue
        if resolved.revision == revision:
            return Chosen(resolved=resolved, config=frozen[revision])
    defaults = effective_defaults(config.defaults)
    resolved = resolve(job["spec"], defaults)
    fresh = config.model_copy(update={"defaults": defaults})
    return Chosen(resolved=resolved, config=frozen.get(resolved.revision, fresh))


def configmap(job: Object, chosen: Chosen) -> dict[str, Any]:
    """Return the immutable ConfigMap that freezes a revision."""
    document = JobConfig(
        namespace=job["metadata"]["namespace"],
        name=job["metadata"]["name"],
        uid=job["metadata"]["uid"],
        revision=chosen.revision,
        model=chosen.resolved.spec.model,
        dataset=chosen.resolved.spec.dataset,
        training=chosen.resolved.spec.training,
    )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": names.metadata(
            job,
            names.revision_name(job["metadata"]["name"], chosen.revision),
            names.labels(job, component="revision", revision=chosen.revision),
        ),
        "immutable": True,
        "data": {
            JOB_FILE: _text(
                document.model_dump(
                    mode="json",
                    exclude={"model": {"token_secret_ref"}, "dataset": {"token_secret_ref"}},
                )
            ),
            OPERATOR_FILE: _text(
                chosen.config.model_dump(mode="json", exclude={"lease_name", "namespaces"})
            ),
        },
    }


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
