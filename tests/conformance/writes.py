"""Who wrote which fields of an object, from the managedFields of its versions."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.support.local_cluster.kubectl import Object

Path = tuple[str, ...]


def by_manager(versions: Iterable[Object]) -> dict[str, set[Path]]:
    """Return the fields that each manager owned in any of the versions."""
    owners: dict[str, set[Path]] = {}
    for version in versions:
        for entry in version["metadata"]["managedFields"]:
            owners.setdefault(entry["manager"], set()).update(_leaves(entry["fieldsV1"]))
    return owners


def _leaves(owned: Mapping[str, Any], above: Path = ()) -> Iterator[Path]:
    """Yield the paths of the leaves in ``fieldsV1``, for example ``f:spec``, ``f:suspend``."""
    for name, inner in owned.items():
        # A dot stands for the object itself, which the owners of its fields share.
        if name != ".":
            yield from _leaves(inner, (*above, name)) if inner else [(*above, name)]
