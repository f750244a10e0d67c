"""The change of a spec that returns to a revision of the ledger. Pure.

The ConfigMap of a revision has the fields that determine training (``job.json``). The difference
from the present spec, resolved with the defaults of that revision, is the change. Its effect is
certain: if the changed spec has the digest of the revision, the operator does not train it again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_api.defaulting import InvalidSpec, Resolved, effective_defaults, resolve
from finetune_api.revision_hash import text_digest
from finetune_cli.errors import CommandFailed

REACHED_BY = ("tokenSecretRef", "caConfigMapRef", "oci")
"""Fields of a source that do not belong to a revision."""
Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """A merge patch of the spec, and whether it leads to exactly the revision."""

    change: Values
    exact: bool


def rollback(spec: Mapping[str, Any], record: Mapping[str, Any], document: str) -> Rollback:
    """Return the change of a spec. Raises CommandFailed if the revision cannot be read.

    record: of the revision in the ledger; document: its job.json.
    """
    revision, frozen = record["revision"], record.get("frozen") or {}
    if text_digest(document) != frozen.get("jobDigest"):
        raise CommandFailed(
            f"the ConfigMap of revision {revision} is not the one that the operator wrote: change "
            "the spec by hand"
        )
    try:
        defaults = effective_defaults(json.loads(frozen["operator"]).get("defaults") or {})
        present = _document(resolve(spec, defaults))
        change = _difference(present, _wanted(json.loads(document)))
        reruns: tuple[Values, ...] = ({}, {"rerun": None})
        for rerun in reruns:
            candidate = {**change, **rerun} if spec.get("rerun") else change
            resolved = resolve(merged(spec, candidate), defaults)
            if resolved.digest == frozen["digest"]:
                return Rollback(change=candidate, exact=True)
    except (InvalidSpec, ValueError, KeyError, TypeError) as error:
        raise CommandFailed(
            f"revision {revision} cannot be compared with the present spec ({error}): install ftj "
            "in the version of the operator, or change the spec by hand"
        ) from None
    return Rollback(change=change, exact=False)


def merged(values: Mapping[str, Any], patch: Mapping[str, Any]) -> Values:
    """Return values after a JSON merge patch."""
    result = dict(values)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            before = result.get(name)
            result[name] = merged(before if isinstance(before, Mapping) else {}, value)
        else:
            result[name] = value
    return result


def _document(resolved: Resolved) -> Values:
    """Return the fields that determine training, as job.json has them, in the order of the spec."""
    spec = resolved.spec
    config = JobConfig(
        namespace="",
        name="",
        revision=resolved.revision,
        digest=resolved.digest,
        model=spec.model,
        dataset=spec.common_dataset,
        datasets=spec.datasets,
        training=spec.training,
        evaluation_dataset=spec.evaluation.dataset,
    )
    return _wanted(config.model_dump(mode="json"))


def _wanted(document: Mapping[str, Any]) -> Values:
    several = document.get("datasets")
    return {
        "model": document["model"],
        "dataset": None if several else document["dataset"],
        "datasets": several,
        "training": document["training"],
        "evaluation": {"dataset": document.get("evaluationDataset")},
    }


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Values:
    """Return the merge patch that turns values into others, without the fields of REACHED_BY."""
    patch: Values = {}
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new or name in REACHED_BY:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if inner := _difference(old, new):
                patch[name] = inner
        elif isinstance(new, list):
            patch[name] = [_without_nulls(element) for element in new]
        elif isinstance(new, Mapping):
            patch[name] = _without_nulls(new)
        elif name != "s3" or new is not None:
            patch[name] = new
    return patch


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
