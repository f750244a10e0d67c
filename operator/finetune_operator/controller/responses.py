"""The responses to the writes of one reconcile: they enter the store, and decide what follows."""

import math
from dataclasses import dataclass, field

from finetune_operator import delays
from finetune_operator.controller.memory import Memory
from finetune_operator.snapshot.store import ObjectStore, name_of, version_of
from finetune_operator.types import Object


@dataclass(kw_only=True)
class Responses:
    """What the writes of one reconcile have returned so far."""

    memory: Memory
    store: ObjectStore
    own: set[tuple[str, int]] = field(default_factory=set)
    """Kind and version of the written objects, whose watch events are no news."""
    follow_up: float = math.inf
    """Seconds until the reconcile that follows a change of the children; infinite without one."""

    @property
    def changed(self) -> bool:
        """Whether a child has changed."""
        return self.follow_up < math.inf

    def record(self, target: Object, written: Object | None) -> None:
        """Store the object in a response. written: None if the response contains no object."""
        kind = target["kind"]
        if written is None:
            self.memory.unknown |= {(kind, target["metadata"]["name"])}
            self.follow_up = delays.FOLLOW_UP
            return
        version = version_of(written)
        # A watch may report a created object before the response does.
        existed = 0 < self.store.version(kind, name_of(written)) < version
        news = self.store.put(written)
        self.own.add((kind, version))
        if self.memory.has_created(target, written) or (news and kind in self.store.watches.owned):
            seconds = delays.FOLLOW_UP if existed else delays.CREATED
            self.follow_up = min(self.follow_up, seconds)
