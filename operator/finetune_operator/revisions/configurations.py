"""Configurations of revisions: the one that a revision was started with, or that one starts with.

Parsing a configuration takes longer than a plan. Jobs that started at the same time have the same
text, so the latest ``REMEMBERED`` configurations are kept, and equal defaults are one object.
"""

import json
from functools import lru_cache

from pydantic import ValidationError

from finetune_api.base import Values
from finetune_api.defaulting import effective_defaults
from finetune_api.profile_defaults import over_chart
from finetune_api.v1alpha1.status.ledger import FrozenConfiguration
from finetune_operator.config import Settings
from finetune_operator.revisions.documents import LIVE, thawed
from finetune_operator.revisions.versions import UnsupportedVersion

REMEMBERED = 256


@lru_cache(maxsize=REMEMBERED)
def starting(present: Settings) -> Settings:
    """Return the configuration of a revision that starts now: its defaults are complete."""
    return present.model_copy(update={"defaults": defaults(present)})


def thaw(revision: str, frozen: FrozenConfiguration, present: Settings) -> Settings:
    """Return the settings of a revision: the frozen ones, and the present values of the others.

    Raises UnsupportedVersion if the frozen configuration cannot be read.
    """
    try:
        return _with_live(frozen.operator, present)
    except ValueError as error:
        cause = str(error)
        if isinstance(error, ValidationError):
            finding = error.errors()[0]
            cause = f"{'.'.join(str(step) for step in finding['loc'])}: {finding['msg']}"
        raise UnsupportedVersion(
            f"the frozen configuration of revision {revision}", cause
        ) from error


def contract(frozen: FrozenConfiguration) -> int:
    """Return the version of the contract that the trainer image of a revision follows."""
    return _parsed(frozen.operator)[1]


def over_frozen(profile: Values, frozen: Settings) -> Values:
    """Return the defaults of a profile over those of a revision that has none, complete."""
    return _shared(json.dumps(over_chart(profile, frozen.defaults)))


def with_profile(frozen: Settings, present: Settings, complete: Values) -> Settings:
    """Return the settings of a revision with another profile. complete: the defaults with it."""
    products = present.gpu.products
    changes = {
        "defaults": complete,
        "profile": present.profile,
        "gpu": frozen.gpu.model_copy(update={"products": products}),
    }
    return frozen.model_copy(update=changes)


@lru_cache(maxsize=REMEMBERED)
def defaults(present: Settings) -> Values:
    """Return the present defaults, complete."""
    return _shared(json.dumps(effective_defaults(present.defaults)))


@lru_cache(maxsize=REMEMBERED)
def _with_live(text: str, present: Settings) -> Settings:
    """Return a frozen configuration with the present values of the settings that are not frozen."""
    return _parsed(text)[0].model_copy(update={name: getattr(present, name) for name in LIVE})


@lru_cache(maxsize=REMEMBERED)
def _parsed(text: str) -> tuple[Settings, int]:
    settings, version = thawed(text)
    shared = _shared(json.dumps(settings.defaults))
    return settings.model_copy(update={"defaults": shared}), version


@lru_cache(maxsize=REMEMBERED)
def _shared(text: str) -> Values:
    """Return the same object for equal defaults: a revision usually has the present ones."""
    values: Values = json.loads(text)
    return values
