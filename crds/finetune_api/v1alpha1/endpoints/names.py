"""Names of models, and paths below the claim of a FineTuneEndpoint."""

LONGEST_NAME = 128
PUBLIC_NAME = rf"^[A-Za-z0-9][-A-Za-z0-9._:/]{{0,{LONGEST_NAME - 1}}}$"
SEGMENT = r"[A-Za-z0-9][-A-Za-z0-9._]*"
PATH_BELOW_CLAIM = rf"^{SEGMENT}(/{SEGMENT}){{0,3}}$"
"""A relative path. No segment begins with a dot, so it never leaves the claim."""
BASE_SUFFIX = "-base"
"""Suffix of the name under which the base model itself is served with serving.mode: adapter, or by
a FineTuneEndpoint."""


def base_name(name: str) -> str:
    """Return the name under which the base model answers. name: that of the tuned model."""
    return f"{name}{BASE_SUFFIX}"
