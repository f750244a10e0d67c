"""The table of the names that answer. Pure.

A table is immutable, and a request keeps the route that it found: a swap replaces the whole table,
so no request sees two adapters. A name enters only with a proof of the boot that the table is for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from finetune_api.v1alpha1.endpoints.names import base_name
from finetune_gate.keys import Caller, may_use
from finetune_gate.queue.fairness import BASE, Name

Outcome = Literal["Verified", "Inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """An adapter was proved under an internal name. Distances are in nats.

    boot: start of the engine. internal: name that only this proof used. base_agrees: whether the
    base was compared while the adapter decoded.
    """

    boot: str
    internal: str
    outcome: Outcome
    message: str
    distance: float
    tolerance: float
    smallest_fault: float | None
    base_agrees: bool = False


@dataclass(frozen=True, kw_only=True)
class Route:
    """A public name and the adapter that answers.

    adapter: SHA-256 of its manifest. template: chat template of the job; None for the base's.
    salt: secret prefix of the cache salts, so that no two names or callers share cached prompts.
    base: name in the engine of the base, if the base answers in place of the adapter.
    """

    name: str
    job: str
    adapter: str
    proof: Proof
    template: str | None
    keys: frozenset[str] | None
    salt: str = field(repr=False)
    base: str | None = None

    @property
    def internal(self) -> str:
        """Name in the engine of the adapter, or of the base."""
        return self.proof.internal if self.base is None else self.base

    @property
    def queue(self) -> Name:
        """Queue in which the requests of callers wait: one for all names with an adapter."""
        return self.internal if self.base is None else f"{BASE}{self.proof.internal}"

    def of_base(self, internal: str) -> "Route":
        """Return the route to the base, with the template and for the callers of this one."""
        return replace(self, name=base_name(self.name), base=internal)


class Unproved(Exception):
    """A route has no proof of the present boot: a fault of the gate itself."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The names that answer. boot: the start of the engine; None before the first."""

    boot: str | None = None
    routes: Mapping[str, Route] = field(default_factory=dict)

    def swapped(self, routes: Iterable[Route]) -> "Table":
        """Return a table with exactly these routes. Raise Unproved."""
        table = {}
        for route in routes:
            if route.proof.boot != self.boot:
                raise Unproved(f"{route.name} was proved in boot {route.proof.boot}")
            table[route.name] = route
        return Table(boot=self.boot, routes=table)

    def find(self, name: str, caller: Caller) -> Route | None:
        """Return the route of a name; None if it is unknown or not for this caller."""
        route = self.routes.get(name)
        return route if route is not None and may_use(caller, route.keys) else None

    def visible(self, caller: Caller) -> list[Route]:
        """Return the routes that a caller may use, by name."""
        routes = sorted(self.routes.values(), key=lambda route: route.name)
        return [route for route in routes if may_use(caller, route.keys)]
