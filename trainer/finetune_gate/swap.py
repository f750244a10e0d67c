"""The next table of names, from the wanted set and the adapters that are loaded. Pure.

A name gets the wanted adapter once it is proved. Until then it keeps the adapter that it has, if it
is of the same job: a name that moves to another job answers nothing in between.

Next to each name, the base answers under a name of its own, if the proof has compared the base.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetune_api.contracts.endpoint import WantedName, WantedSet
from finetune_api.v1alpha1.endpoints.names import BASE_SUFFIX, base_name
from finetune_gate.adapters.copy import Arrived
from finetune_gate.failures import Attempts
from finetune_gate.names import Proof, Route, Table

Identity = tuple[str, str | None, str | None]


def identity(wanted: WantedName) -> Identity:
    """Return what must be equal so that a proof is for the same adapter."""
    return wanted.adapter, wanted.reference, wanted.template


@dataclass(kw_only=True)
class Adapter:
    """An adapter that vLLM has loaded.

    attempts: those that the proof is for. alone: it was proved without a neighbour, if at all.
    """

    internal: str
    arrived: Arrived
    proof: Proof | None = None
    attempts: Attempts = frozenset()
    alone: bool = True


def swapped(
    table: Table, wanted: WantedSet | None, adapters: Mapping[Identity, Adapter], base: str
) -> Table:
    """Return the table that replaces another one.

    adapters: those that are loaded. base: name of the base in the engine.
    """
    loaded = {adapter.internal for adapter in adapters.values() if adapter.proof is not None}
    routes = []
    for wanted_name in wanted.names if wanted is not None else ():
        before = table.routes.get(wanted_name.name)
        if before is not None and (before.job != wanted_name.job or before.internal not in loaded):
            before = None
        route = _proved(wanted_name, adapters.get(identity(wanted_name)), before)
        if route is None and before is not None:
            route = replace(before, keys=_keys(wanted_name))
        if route is not None:
            routes.append(route)
    names = {wanted_name.name for wanted_name in wanted.names} if wanted is not None else set()
    bases = [
        route.of_base(base)
        for route in routes
        if route.proof.base_agrees and base_name(route.name) not in names
    ]
    return table.swapped([*routes, *bases])


def wanted_for(name: str, wanted: WantedSet, table: Table) -> WantedName | None:
    """Return what a name waits for: its own adapter, or that of the model whose base it is.

    A base does not answer if the proof of its model could not compare it.
    """
    names = {wanted_name.name: wanted_name for wanted_name in wanted.names}
    if name in names:
        return names[name]
    model = name.removesuffix(BASE_SUFFIX)
    if model == name or (model in table.routes and name not in table.routes):
        return None
    return names.get(model)


def _proved(wanted: WantedName, adapter: Adapter | None, before: Route | None) -> Route | None:
    """Return the route to the wanted adapter; None if its proof is missing or not enough."""
    if adapter is None or adapter.proof is None:
        return None
    if adapter.proof.outcome != "Verified" and not wanted.allow_inconclusive:
        return None
    is_same = before is not None and before.internal == adapter.internal
    return Route(
        name=wanted.name,
        job=wanted.job,
        adapter=wanted.adapter,
        proof=adapter.proof,
        template=adapter.arrived.template,
        keys=_keys(wanted),
        # What callers have cached stays usable while the adapter stays the same.
        salt=before.salt if before is not None and is_same else secrets.token_hex(16),
    )


def _keys(wanted: WantedName) -> frozenset[str] | None:
    return None if wanted.keys is None else frozenset(wanted.keys)
