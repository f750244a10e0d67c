"""The FineTuneProfile of a job, from a file: its defaults, its GPU model and its price."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.base import Values
from finetune_api.defaulting import builtin_defaults, effective_defaults
from finetune_api.layering import without_nulls
from finetune_api.profile_defaults import over_chart, own_defaults
from finetune_api.v1alpha1.profile import PROFILE_KIND, Price
from finetune_api.validation import findings
from finetune_cli.offline import job_file
from finetune_trainer.errors import InvalidSpec

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a job gets from its profile, if that is known."""

    defaults: Values
    card: str | None = None
    price: Price | None = None
    warning: str | None = None
    """That the profile is not known."""


def of(path: Path | None, documents: Sequence[Object], *, at: str) -> Offer:
    """Return the profile of the only job of some objects. Raises InvalidSpec.

    path: file with the profile; by default, it is looked for among the objects. at: their file.
    """
    name = job_file.spec_in(documents, at=at).get("profile")
    if path is None and name is None:
        return Offer(defaults=builtin_defaults())
    place = at if path is None else str(path)
    profiles = [
        document
        for document in job_file.flat(documents if path is None else job_file.load(path))
        if document.get("kind") == PROFILE_KIND and name in (None, _name(document))
    ]
    if path is None and not profiles:
        warning = (
            f"the defaults, the GPU model and the price of {PROFILE_KIND} {name} (spec.profile) "
            "are not known: name its file with --profile, or run ftj plan"
        )
        return Offer(defaults=builtin_defaults(), warning=warning)
    if len(profiles) != 1:
        named = "" if name is None else f" with the name {name} (spec.profile)"
        raise InvalidSpec(
            f"{place} contains {len(profiles)} {PROFILE_KIND}s{named}: it must contain exactly one"
        )
    return _offer(profiles[0], at=place)


def _offer(profile: Object, *, at: str) -> Offer:
    for error in findings(profile):
        raise InvalidSpec(f"{at}: {PROFILE_KIND} {_name(profile)}: {error}")
    spec = without_nulls(profile["spec"])
    written = spec.get("price")
    return Offer(
        defaults=effective_defaults(over_chart(own_defaults(spec), {})),
        card=spec.get("card"),
        price=None if written is None else Price.model_validate(written, by_name=False),
    )


def _name(profile: Object) -> Any:
    return job_file.group(profile, "metadata").get("name")
