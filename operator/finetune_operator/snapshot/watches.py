"""What a controller watches: the objects of one of our own kinds, and those that they own.

Store, reflectors, live reads and resync take all that they know about kinds from here. Another own
kind is another ``Watches``, with a store, a queue and a planner of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_operator.kube.kinds import (
    FINETUNEBUDGET,
    FINETUNEENDPOINT,
    FINETUNEJOB,
    FINETUNEPROFILE,
)
from finetune_operator.objects import naming
from finetune_operator.types import LISTS, Key, Object

MANAGED = f"{naming.MANAGER}={naming.MANAGED_BY}"
"""Selector of the objects of all owners: one watch of a kind serves several controllers."""


@dataclass(frozen=True, kw_only=True)
class Watches:
    """The kinds of one controller, and the function from an object to the key that it is about."""

    own: str
    """Own kind, namespaced or cluster-scoped; kopf watches it."""
    label: str = ""
    """Label of the owned objects: the name of their owner."""
    owned: Mapping[str, str]
    """Kinds of owned objects, and their fields in the snapshot."""
    metadata_only: frozenset[str] = frozenset()
    """Owned kinds of which only the metadata is watched; a reconcile reads what it needs."""

    @property
    def kinds(self) -> frozenset[str]:
        """All kinds."""
        return frozenset({self.own, *self.owned})

    def key_of(self, child: Object) -> Key | None:
        """Return the key of the owner to which an object belongs, None without the labels.

        A response or a live read may contain an object that the watches do not report.
        """
        metadata = child["metadata"]
        owner = metadata["name"]
        if child["kind"] != self.own:
            labels = metadata.get("labels") or {}
            is_watched = labels.get(naming.MANAGER) == naming.MANAGED_BY
            owner = labels.get(self.label) if is_watched else None
        return None if owner is None else (metadata.get("namespace", ""), owner)

    def series(self, kind: str) -> str:
        """Return the label of a kind in metrics: two controllers may watch one kind."""
        shared = kind != self.own and self.own != FINETUNEJOB
        return f"{kind} of {self.own}" if shared else kind

    def selector(self, name: str) -> str:
        """Return the selector of the objects of an owner."""
        return f"{MANAGED},{self.label}={name}"


JOBS = Watches(
    own=FINETUNEJOB, label=naming.JOB, owned=LISTS, metadata_only=frozenset({"ConfigMap"})
)
PROFILES = Watches(own=FINETUNEPROFILE, owned={})
BUDGETS = Watches(own=FINETUNEBUDGET, owned={})
ENDPOINTS = Watches(
    own=FINETUNEENDPOINT,
    label=naming.ENDPOINT,
    owned=LISTS,
    metadata_only=frozenset({"ConfigMap"}),
)
