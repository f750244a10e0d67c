"""The defaults of a profile over those of the chart. Pure.

Both are partial specs, which have no source of their own, so the rules of ``default_credentials``
are stricter here. If a profile writes another source, S3 endpoint or certificates than the chart
for a model or dataset, no credential of the chart is used next to them. Certificates apply to all
connections of a pod, so with others no Secret of the chart is used at all. The service account of
the chart is used only if the profile changes none of these, and adds no targets.
"""

from finetune_api.base import Values
from finetune_api.default_credentials import ACCOUNT, CERTIFICATES, ENDPOINT, IMAGE, SECRETS
from finetune_api.fitting import (
    PUBLISH,
    WITH_SOURCE,
    fit_length,
    fit_node_selector,
    without_foreign_content,
)
from finetune_api.layering import Path, has, layered, value_at, without
from finetune_api.v1alpha1.spec import FineTuneJobSpec

PLACES: tuple[Path, ...] = (("source",), ENDPOINT)


def own_defaults(spec: Values) -> Values:
    """Return the defaults of a profile. spec: of the profile, without nulls."""
    defaults: Values = spec.get("defaults") or {}
    return {**defaults, "queueName": spec["queueName"]} if "queueName" in spec else defaults


def over_chart(profile: Values, chart: Values) -> Values:
    """Return the defaults of the jobs with a profile.

    profile: valid defaults without nulls (``effective_defaults``); chart: those of the chart.
    """
    values = layered(FineTuneJobSpec, without_foreign_content(chart, profile), profile)
    values = fit_node_selector(fit_length(values, profile), profile)
    return _without_foreign_credentials(values, profile, chart)


def _without_foreign_credentials(values: Values, profile: Values, chart: Values) -> Values:
    others = [path for path in WITH_SOURCE if _differs(profile, chart, path, PLACES)]
    certified = [path for path in WITH_SOURCE if _differs(profile, chart, path, [*CERTIFICATES])]
    removed = {
        (*path, *credential)
        for path in {*others, *certified}
        for credential in SECRETS | CERTIFICATES
    }
    if certified:
        removed |= {(*path, *secret) for path in WITH_SOURCE for secret in SECRETS}
    if others or certified or has(profile, *PUBLISH):
        removed.add(ACCOUNT)
    return without(values, *(_group(path) for path in removed if not has(profile, *path)))


def _group(path: Path) -> Path:
    """Return the path of what is removed with a credential: an empty group would be a value."""
    return path[:-1] if path[-2:-1] == IMAGE else path


def _differs(
    profile: Values, chart: Values, group: Path, fields: list[Path] | tuple[Path, ...]
) -> bool:
    """Report whether a profile writes a field of a group with another value than the chart."""
    paths = [(*group, *field) for field in fields]
    return any(value_at(profile, path) not in (None, value_at(chart, path)) for path in paths)
