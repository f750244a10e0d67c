"""The result of one part of the reconcile."""

from dataclasses import dataclass

from finetune_operator.actions import Action, Delete
from finetune_operator.reconcile.conditions import Position
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.types import Event
from finetune_operator.usage.values import ReservationRequest


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A part's result: the ledger with its attempts, and all that the plan takes from it."""

    ledger: Ledger
    position: Position | None = None
    """None if the part leaves the position to the next one."""

    stops: tuple[Delete, ...] = ()
    """Deletions that come before anything is created."""

    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    warnings: tuple[str, ...] = ()
    reservation: ReservationRequest | None = None

    def then(self, following: "Decision") -> "Decision":
        """Return this decision and a following one, which started from this one's ledger."""
        stopped = {stop.object["metadata"]["uid"] for stop in self.stops}
        stops = [stop for stop in following.stops if stop.object["metadata"]["uid"] not in stopped]
        return Decision(
            ledger=following.ledger,
            position=following.position,
            stops=(*self.stops, *stops),
            actions=(*self.actions, *following.actions),
            events=(*self.events, *following.events),
            warnings=(*self.warnings, *following.warnings),
            reservation=following.reservation or self.reservation,
        )
