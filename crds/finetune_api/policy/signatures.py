"""Which sources the chart value ``policy.signatures`` covers. Pure.

A source is covered rather than not: hubs ignore the case of a name, and registries do not need the
default port, so another spelling of a covered source is covered, too.
"""

from collections.abc import Iterable

from finetune_api.policy import patterns
from finetune_api.v1alpha1.sources import OCI_SOURCE_PREFIX, Kind
from finetune_api.v1alpha1.start_from import START_FROM

DEFAULT_PORT = ":443"
_WHAT = {"model": "model", START_FROM: "adapter"}


def what_of(kind: Kind) -> str:
    """Return what a source is, as ``policy.signatures`` names it."""
    return _WHAT.get(kind, "dataset")


def check(pattern: str) -> str:
    """Return the pattern of a source. Raise ValueError, also for one that is meant as a glob.

    As a regular expression, ``oci://host/models/*`` covers no model at all.
    """
    patterns.check(pattern)
    if pattern.endswith("/*") or pattern == "*":
        raise ValueError(
            f"{pattern!r} is no regular expression for all sources that begin in this way: end it "
            "with .* instead of *"
        )
    return pattern


def covers(sources: Iterable[str], source: str) -> bool:
    """Report whether one of the patterns matches a source."""
    spellings = _spellings(source)
    # Only punctuation is escaped in a pattern, so that its lower case is a pattern, too.
    return any(
        patterns.matches(pattern, name)
        for each in sources
        for pattern in (each, each.lower())
        for name in spellings
    )


def _spellings(source: str) -> set[str]:
    found = {source, source.lower()}
    if source.startswith(OCI_SOURCE_PREFIX):
        host, slash, path = source.removeprefix(OCI_SOURCE_PREFIX).partition("/")
        name = host.removesuffix(DEFAULT_PORT)
        found.add(f"{OCI_SOURCE_PREFIX}{name}{slash}{path}")
        if ":" not in name:
            found.add(f"{OCI_SOURCE_PREFIX}{name}{DEFAULT_PORT}{slash}{path}")
    return found
