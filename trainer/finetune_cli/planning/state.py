"""The jobs, profiles, budgets and settings with which a plan compares: of a cluster, or of a file.

What cannot be read is unknown, and then the verdicts that need it are.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

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
    removed: frozenset[str] = frozenset()
    """Names of the profiles that the files of the plan have no more."""

    def job(self, namespace: str, name: str) -> Object | None:
        """Return a job, None if there is none. One without a namespace is in any."""
        for job in self.jobs:
            metadata = group(job, "metadata")
            if (metadata.get("namespace") or namespace, metadata.get("name")) == (namespace, name):
                return job
        return None

    @property
    def known_profiles(self) -> tuple[Object, ...]:
        """The profiles that are known, also if those of the state cannot be read."""
        others = {*map(name_of, self.changed), *self.removed}
        return (
            *self.changed,
            *(profile for profile in self.profiles or () if name_of(profile) not in others),
        )

    @property
    def former(self) -> Self:
        """The state before the profiles in the files of the plan replace those that are known."""
        if self.profiles is None:
            return self
        return replace(self, changed=(), removed=frozenset())

    def jobs_of_changed_profiles(self) -> list[Object]:
        """Return the jobs that name a changed or removed profile, or have it by default."""
        names: list[str | None] = [*map(name_of, self.changed), *self.removed]
        if not names:
            return []
        versions = (*self.changed, *(it for it in self.profiles or () if name_of(it) in names))
        if any(map(_is_default, versions)):
            names.append(None)
        return [job for job in self.jobs if spec_of(job).get("profile") in names]

    def profile(self, written: str | None) -> Object | None:
        """Return the profile of a job, None without one. Raises UnknownProfile.

        Of several default profiles, the newest has the defaults. written: ``spec.profile``.
        """
        candidates = self.limiting(written)
        if written is None or candidates:
            return max(candidates, key=_age, default=None)
        if self.profiles is None and written not in self.removed:
            raise UnknownProfile(f"{PROFILE_KIND} {written} cannot be read")
        raise MissingProfile(f"there is no {PROFILE_KIND} {written}")

    def limiting(self, written: str | None) -> list[Object]:
        """Return the profiles whose limits apply to a job: all default ones if it names none."""
        if written is not None:
            return [profile for profile in self.known_profiles if name_of(profile) == written]
        return [profile for profile in self.known_profiles if _is_default(profile)]

    def budgets_of(self, namespace: str) -> list[Object]:
        """Return the budgets that count the usage of a namespace."""
        return [
            budget
            for budget in self.budgets or ()
            if namespace in items(group(budget, "status"), "namespaces")
        ]


class UnknownProfile(Exception):
    """The profile of a job is not known; the message says why."""


class MissingProfile(UnknownProfile):
    """The profile of a job does not exist."""


def spec_of(object_: Object) -> Values:
    """Return the spec of an object, empty if it has none."""
    return group(object_, "spec")


def group(values: Object, name: str) -> Values:
    """Return a group of values without nulls, empty if there is none. Files can have anything."""
    value = values.get(name)
    return without_nulls(value) if isinstance(value, dict) else {}


def items(values: Object, name: str) -> list[Any]:
    """Return a list of values, empty if there is none. Files can have anything."""
    value = values.get(name)
    return value if isinstance(value, list) else []


def of_documents(documents: Iterable[Object], *, source: str) -> State:
    """Return the state that a file has. Raises CommandFailed for settings that are not valid."""
    objects = [document for document in documents if isinstance(document.get("metadata"), dict)]
    profiles = _of_kind(objects, PROFILE_KIND)
    budgets = _of_kind(objects, BUDGET_KIND)
    settings = [
        configmap
        for configmap in _of_kind(objects, "ConfigMap")
        if FILE in group(configmap, "data")
    ]
    return State(
        source=source,
        jobs=_of_kind(objects, KIND),
        profiles=profiles or None,
        budgets=budgets or None,
        settings=settings_of(settings[-1]) if settings else None,
    )


def settings_of(configmap: Object) -> ReadableSettings:
    """Return the settings in a ConfigMap. Raises CommandFailed."""
    name = name_of(configmap)
    try:
        values = yaml.safe_load(str(configmap["data"][FILE]))
        return ReadableSettings.model_validate(values)
    except (yaml.YAMLError, ValidationError, KeyError, TypeError) as error:
        problem = " ".join(str(error).split())[:200]
        raise CommandFailed(
            f"the settings in ConfigMap {name} cannot be read ({problem}): install ftj in the "
            "version of the operator"
        ) from None


def _of_kind(objects: Iterable[Object], kind: str) -> tuple[Object, ...]:
    def own() -> Iterator[Object]:
        for object_ in objects:
            group = str(object_.get("apiVersion")).split("/")[0]
            if object_.get("kind") == kind and (kind == "ConfigMap" or group == GROUP):
                yield object_

    return tuple(own())


def is_profile(document: Object) -> bool:
    """Report whether a document of a file is a profile."""
    return document.get("kind") == PROFILE_KIND


def name_of(object_: Object) -> str:
    """Return the name of an object."""
    return str(group(object_, "metadata").get("name"))


def _is_default(profile: Object) -> bool:
    annotations = group(group(profile, "metadata"), "annotations")
    return bool(annotations.get(DEFAULT_ANNOTATION) == "true")


def _age(profile: Object) -> tuple[str, str]:
    created = group(profile, "metadata").get("creationTimestamp", "")
    return str(created), name_of(profile)
