"""What a kind of our own adds to the controller: a reader, a planner, and metrics."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.types import NO_JOBS, Confirmation, Key, Object, Observed, Plan

S = TypeVar("S", bound=Observed)
"""The snapshot of an object of the kind."""
S_contra = TypeVar("S_contra", bound=Observed, contravariant=True)


class Reader(Protocol[S]):
    """Makes snapshots. Every method that awaits raises OperatorError."""

    async def read(
        self,
        key: Key,
        *,
        live: Set[str] = frozenset(),
        names: Iterable[tuple[str, str]] = (),
        created: Mapping[str, bool] = NO_JOBS,
    ) -> S | None:
        """Return the snapshot of an object, None if the object does not exist.

        live: kinds that are read from the API server first; names: kind and name of further objects
        to read; created: see ``Snapshot.created``.
        """

    async def complete(self, key: Key, plan: Plan) -> bool:
        """Read what a plan depends on and the snapshot lacked; return whether there is news."""

    def wait(self, key: Key, snapshot: S, plan: Plan) -> float:
        """Return for how many seconds the execution of a plan waits for information; usually 0."""

    def forget(self, key: Key) -> None:
        """Forget an object that was deleted, or that another replica reconciles."""


class Planner(Protocol[S_contra]):
    """The pure core of a kind, such as ``finetune_operator.reconcile.plan``."""

    def plan(self, snapshot: S_contra, *, now: datetime) -> Plan:
        """Return the plan for a snapshot."""

    def confirmation(self, snapshot: S_contra, plan: Plan) -> Confirmation:
        """Return the live read that a plan needs before it is executed."""

    def report(
        self,
        snapshot: S_contra,
        *,
        reason: Reason,
        message: str,
        now: datetime,
        planned: Object | None = None,
        rejected: Object | None = None,
    ) -> Plan:
        """Return a plan whose conditions report an error, and which writes nothing else.

        planned: a status whose other fields are written, instead of those of the previous one.
        rejected: the object whose write the API server rejects.
        """


class Telemetry(Protocol[S_contra]):
    """The metrics about the objects of a kind."""

    def observed(self, key: Key, snapshot: S_contra, status: Object) -> None:
        """Record the state of an object after a reconcile."""

    def written(self, snapshot: S_contra, plan: Plan) -> None:
        """Count what a written status reports for the first time."""

    def forget(self, key: Key) -> None:
        """Forget an object."""


@dataclass(frozen=True)
class Observers(Generic[S]):
    """Several recipients of what ``Telemetry`` gets."""

    all: tuple[Telemetry[S], ...]

    def observed(self, key: Key, snapshot: S, status: Object) -> None:
        """Record the state of an object after a reconcile."""
        for observer in self.all:
            observer.observed(key, snapshot, status)

    def written(self, snapshot: S, plan: Plan) -> None:
        """Count what a written status reports for the first time."""
        for observer in self.all:
            observer.written(snapshot, plan)

    def forget(self, key: Key) -> None:
        """Forget an object."""
        for observer in self.all:
            observer.forget(key)
