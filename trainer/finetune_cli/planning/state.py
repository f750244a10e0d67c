"""The jobs, profiles, budgets and settings with which a plan compares: of a cluster, or of a file.

What cannot be read is unknown, and then the verdicts that need it are.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from finetune_api import GROUP, KIND
from finetune_api.base import Values
from finetune_api.layering import without_nulls
from finetune_api.policy.readable_settings import FILE, ReadableSettings
from finetune_api.v1alpha1.budgets.spec import BUDGET_KIND
from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION, PROFILE_KIND
from finetune_cli.errors import CommandFailed

Object = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class State:
    """What is known. None: it cannot be read."""

    source: str
    """Where it is from, in words."""
    jobs: tuple[Object, ...] = ()
    profiles: tuple[Object, ...] | None = None
    budgets: tuple[Object, ...] | None = None
    settings: ReadableSettings | None = None
    changed: tuple[Object, ...] = ()
    """Profiles in the files of the plan, which replace those of the state."""

    def job(self, namespace: str, name: str) -> Object | None:
        """Return a job, None if there is none. One without a namespace is in any."""
        for each in self.jobs:
            metadata = group(each, "metadata")
            if (metadata.get("namespace") or namespace, metadata.get("name")) == (namespace, name):
                return each
        return None

    @property
    def known_profiles(self) -> tuple[Object, ...]:
        """The profiles that are known, also if those of the state cannot be read."""
        new = {_name(each) for each in self.changed}
        return (*self.changed, *(each for each in self.profiles or () if _name(each) not in new))

    def profile(self, written: str | None) -> Object | None:
        """Return the profile of a job, None without one. Raises UnknownProfile.

        Of several default profiles, the newest has the defaults. written: ``spec.profile``.
        """
        found = self.limiting(written)
        if written is None or found:
            return max(found, key=_age, default=None)
        if self.profiles is None:
            raise UnknownProfile(f"{PROFILE_KIND} {written} cannot be read")
        raise UnknownProfile(f"there is no {PROFILE_KIND} {written}")

    def limiting(self, written: str | None) -> list[Object]:
        """Return the profiles whose limits apply to a job: all default ones if it names none."""
        if written is not None:
            return [each for each in self.known_profiles if _name(each) == written]
        return [each for each in self.known_profiles if _is_default(each)]

    def budgets_of(self, namespace: str) -> list[Object]:
        """Return the budgets that count the usage of a namespace."""
        return [
            each
            for each in self.budgets or ()
            if namespace in items(group(each, "status"), "namespaces")
        ]


class UnknownProfile(Exception):
    """The profile of a job is not known; the message says why."""


def spec_of(object_: Object) -> Values:
    """Return the spec of an object, empty if it has none."""
    return group(object_, "spec")


def group(values: Object, name: str) -> Values:
    """Return a group of values without nulls, empty if there is none. Files can have anything."""
    found = values.get(name)
    return without_nulls(found) if isinstance(found, dict) else {}


def items(values: Object, name: str) -> list[Any]:
    """Return a list of values, empty if there is none. Files can have anything."""
    found = values.get(name)
    return found if isinstance(found, list) else []


def of_documents(documents: Iterable[Object], *, source: str) -> State:
    """Return the state that a file has. Raises CommandFailed for settings that are not valid."""
    found = [each for each in documents if isinstance(each.get("metadata"), dict)]
    profiles = _of_kind(found, PROFILE_KIND)
    budgets = _of_kind(found, BUDGET_KIND)
    settings = [each for each in _of_kind(found, "ConfigMap") if FILE in group(each, "data")]
    return State(
        source=source,
        jobs=_of_kind(found, KIND),
        profiles=profiles or None,
        budgets=budgets or None,
        settings=settings_of(settings[-1]) if settings else None,
    )


def settings_of(configmap: Object) -> ReadableSettings:
    """Return the settings in a ConfigMap. Raises CommandFailed."""
    name = _name(configmap)
    try:
        values = yaml.safe_load(str(configmap["data"][FILE]))
        return ReadableSettings.model_validate(values)
    except (yaml.YAMLError, ValidationError, KeyError, TypeError) as error:
        problem = " ".join(str(error).split())[:200]
        raise CommandFailed(
            f"the settings in ConfigMap {name} cannot be read ({problem}): install ftj in the "
            "version of the operator"
        ) from None


def _of_kind(found: Iterable[Object], kind: str) -> tuple[Object, ...]:
    def own() -> Iterator[Object]:
        for each in found:
            group = str(each.get("apiVersion")).split("/")[0]
            if each.get("kind") == kind and (kind == "ConfigMap" or group == GROUP):
                yield each

    return tuple(own())


def _name(object_: Object) -> Any:
    return group(object_, "metadata").get("name")


def _is_default(profile: Object) -> bool:
    annotations = group(group(profile, "metadata"), "annotations")
    return bool(annotations.get(DEFAULT_ANNOTATION) == "true")


def _age(profile: Object) -> tuple[str, str]:
    created = group(profile, "metadata").get("creationTimestamp", "")
    return str(created), str(_name(profile))
