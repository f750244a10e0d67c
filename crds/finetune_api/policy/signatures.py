"""Which sources the chart value ``policy.signatures`` covers. Pure.

A source is covered rather than not: hubs ignore the case of a name, and a server has several names
and spellings of its port, so another spelling of a covered source is covered, too.
"""

import re
from collections.abc import Iterable, Iterator

from finetune_api.policy import patterns
from finetune_api.v1alpha1.sources import Kind
from finetune_api.v1alpha1.training.start_from import START_FROM

DEFAULT_PORT = "443"
DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
"""Hosts of the same registry."""
_ON_SERVER = re.compile(r"(oci://|https://)([^/:]+)(?::([0-9]+))?(/.*)")
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
    spellings = {*_spellings(source), *_spellings(source.lower())}
    # Only punctuation is escaped in a pattern, so that its lower case is a pattern, too.
    return any(
        patterns.matches(pattern, name)
        for allowed in sources
        for pattern in (allowed, allowed.lower())
        for name in spellings
    )


def _spellings(source: str) -> Iterator[str]:
    yield source
    parts = _ON_SERVER.fullmatch(source)
    if parts is None:
        return
    scheme, host, port, path = parts.groups(default="")
    host, port = host.rstrip("."), port.lstrip("0") or DEFAULT_PORT
    for name in DOCKER_HUB if scheme == "oci://" and host in DOCKER_HUB else (host,):
        yield f"{scheme}{name}:{port}{path}"
        if port == DEFAULT_PORT:
            yield f"{scheme}{name}{path}"
