"""The API keys of the jobs, from the Secret of the endpoint, which the kubelet mounts as a folder.

The entry with the name of a job lists the SHA-256 digests (hex) of its keys, one per line. A job
without an entry has no key, so its names answer nobody. Other words in an entry are ignored, and
never logged: one of them may be a key.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from finetune_api.contracts.endpoint import WantedSet

LONGEST = 1 << 16
_DIGEST = re.compile(r"[0-9a-f]{64}")

Keys = Mapping[str, tuple[str, ...]]
"""Digests by the name of the job."""


def read(folder: Path) -> Keys:
    """Return the digests of all jobs; none if the folder is missing, as without its Secret."""
    digests = {}
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return {}
    for entry in entries:
        # The kubelet replaces the folder by links that begin with a dot.
        if entry.name.startswith("."):
            continue
        try:
            with entry.open("rb") as file:
                words = file.read(LONGEST).decode("utf-8", "replace").split()
        except OSError:
            continue
        digests[entry.name] = tuple(sorted({word for word in words if _DIGEST.fullmatch(word)}))
    return digests


def counted(keys: Keys) -> str:
    """Return how many keys each job has, for the log."""
    counts = ", ".join(f"{job} {len(digests)}" for job, digests in sorted(keys.items()))
    return f"API keys by job: {counts or 'none'}"


def with_keys(wanted: WantedSet, keys: Keys | None) -> WantedSet:
    """Return a set in which each name has the keys of its job. keys: None if none are needed."""
    if keys is None:
        return wanted
    names = tuple(
        wanted_name.model_copy(update={"keys": keys.get(wanted_name.job, ())})
        if wanted_name.keys is None
        else wanted_name
        for wanted_name in wanted.names
    )
    return wanted.model_copy(update={"names": names})
