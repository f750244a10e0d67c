"""The table of names: no name without a proof of this boot, and swaps are whole."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.contracts.endpoint import WantedName, WantedSet
from finetune_gate import swap
from finetune_gate.adapters.copy import Arrived
from finetune_gate.names import Outcome, Proof, Route, Table, Unproved
from finetune_gate.queue.fairness import BASE
from finetune_gate.swap import Adapter, identity, wanted_for

BOOT = "boot-2"


def swapped(
    table: Table, wanted: WantedSet | None, adapters: Mapping[swap.Identity, Adapter]
) -> Table:
    return swap.swapped(table, wanted, adapters, "no-change")


def proof(
    internal: str,
    *,
    boot: str = BOOT,
    outcome: Outcome = "Verified",
    base_agrees: bool = False,
) -> Proof:
    return Proof(
        boot=boot,
        internal=internal,
        outcome=outcome,
        message="m",
        distance=0.1,
        tolerance=0.2,
        smallest_fault=0.01,
        base_agrees=base_agrees,
    )


def adapter(internal: str, found: Proof | None) -> Adapter:
    return Adapter(
        internal=internal,
        arrived=Arrived(folder=Path("f"), reference=None, template=None),
        proof=found,
    )


def wanted(
    name: str = "support",
    *,
    digest: str = "1",
    job: str = "job",
    keys: tuple[str, ...] | None = None,
    inconclusive: bool = False,
) -> WantedName:
    return WantedName(
        name=name,
        job=job,
        revision="a" * 64,
        adapter=digest * 64,
        path="p",
        keys=keys,
        allow_inconclusive=inconclusive,
    )


def of(*names: WantedName) -> WantedSet:
    return WantedSet(endpoint="e", sequence=1, names=names)


def routes(table: Table) -> dict[str, str]:
    return {name: route.internal for name, route in table.routes.items()}


def test_a_route_with_a_proof_of_another_boot_never_enters() -> None:
    route = Route(
        name="n", job="j", adapter="1", proof=proof("i", boot="boot-1"), template=None,
        keys=None, salt="s",
    )  # fmt: skip
    with pytest.raises(Unproved):
        Table(boot=BOOT).swapped([route])


def test_a_name_answers_once_its_adapter_is_proved() -> None:
    one = wanted()
    adapters = {identity(one): adapter("i1", None)}
    table = swapped(Table(boot=BOOT), of(one), adapters)
    assert routes(table) == {}
    adapters[identity(one)].proof = proof("i1")
    assert routes(swapped(table, of(one), adapters)) == {"support": "i1"}


def test_the_old_adapter_answers_until_the_new_one_is_proved() -> None:
    old, new = wanted(digest="1"), wanted(digest="2")
    adapters = {identity(old): adapter("i1", proof("i1")), identity(new): adapter("i2", None)}
    table = swapped(Table(boot=BOOT), of(old), adapters)
    table = swapped(table, of(new), adapters)
    assert routes(table) == {"support": "i1"}
    adapters[identity(new)].proof = proof("i2")
    assert routes(swapped(table, of(new), adapters)) == {"support": "i2"}


def test_a_name_that_moves_to_another_job_answers_nothing_in_between() -> None:
    old, new = wanted(digest="1"), wanted(digest="2", job="another")
    adapters = {identity(old): adapter("i1", proof("i1"))}
    table = swapped(Table(boot=BOOT), of(old), adapters)
    assert routes(swapped(table, of(new), adapters)) == {}


def test_an_adapter_that_lost_its_proof_answers_no_longer() -> None:
    one = wanted()
    adapters = {identity(one): adapter("i1", proof("i1"))}
    table = swapped(Table(boot=BOOT), of(one), adapters)
    adapters[identity(one)].proof = None
    assert routes(swapped(table, of(one), adapters)) == {}


def test_keys_change_at_once_and_without_another_proof() -> None:
    old = wanted(digest="1", keys=("a" * 64,))
    adapters = {identity(old): adapter("i1", proof("i1"))}
    table = swapped(Table(boot=BOOT), of(old), adapters)
    before = table.routes["support"]
    # Also while the next adapter is not proved yet.
    table = swapped(table, of(wanted(digest="2", keys=("b" * 64,))), adapters)
    assert table.routes["support"].keys == frozenset({"b" * 64})
    assert table.routes["support"].salt == before.salt
    assert table.find("support", "a" * 64) is None
    assert table.find("support", "b" * 64) is not None


def test_inconclusive_answers_only_if_it_is_allowed() -> None:
    one = wanted()
    adapters = {identity(one): adapter("i1", proof("i1", outcome="Inconclusive"))}
    assert routes(swapped(Table(boot=BOOT), of(one), adapters)) == {}
    allowed = of(wanted(inconclusive=True))
    assert routes(swapped(Table(boot=BOOT), allowed, adapters)) == {"support": "i1"}


def test_another_adapter_has_another_salt() -> None:
    old, new = wanted(digest="1"), wanted(digest="2")
    adapters = {
        identity(old): adapter("i1", proof("i1")),
        identity(new): adapter("i2", proof("i2")),
    }
    table = swapped(Table(boot=BOOT), of(old), adapters)
    again = swapped(table, of(new), adapters)
    assert again.routes["support"].salt != table.routes["support"].salt
    assert table.routes["support"].salt not in repr(table.routes["support"])


def test_the_base_answers_next_to_a_model_whose_proof_compared_it() -> None:
    one, two = wanted(keys=("a" * 64,)), wanted("other", digest="2")
    adapters = {
        identity(one): adapter("i1", proof("i1", base_agrees=True)),
        identity(two): adapter("i2", proof("i2")),
    }
    table = swapped(Table(boot=BOOT), of(one, two), adapters)
    assert routes(table) == {"support": "i1", "support-base": "no-change", "other": "i2"}
    assert table.find("support-base", "b" * 64) is None, "it has the keys of the model"
    assert table.routes["support-base"].queue == f"{BASE}i1", "one queue for all names of a model"
    # Not while the model is proved again.
    adapters[identity(one)].proof = None
    assert routes(swapped(table, of(one, two), adapters)) == {"other": "i2"}


def test_a_model_whose_name_is_that_of_a_base_is_no_base() -> None:
    """Not even before it is proved."""
    one, two = wanted(), wanted("support-base", digest="2", keys=("a" * 64,))
    found = proof("i1", base_agrees=True)
    adapters = {identity(one): adapter("i1", found), identity(two): adapter("i2", None)}
    table = swapped(Table(boot=BOOT), of(one, two), adapters)
    assert routes(table) == {"support": "i1"}
    assert wanted_for("support-base", of(one, two), table) == two
    # Nor does it answer with the base that had its name.
    table = swapped(Table(boot=BOOT), of(one), adapters)
    assert routes(swapped(table, of(two), adapters)) == {}


def test_a_base_is_awaited_until_the_proof_of_its_model_could_not_compare_it() -> None:
    one = wanted()
    adapters = {identity(one): adapter("i1", None)}
    table = swapped(Table(boot=BOOT), of(one), adapters)
    assert wanted_for("support-base", of(one), table) == one
    assert wanted_for("other-base", of(one), table) is None
    adapters[identity(one)].proof = proof("i1")
    table = swapped(table, of(one), adapters)
    assert wanted_for("support-base", of(one), table) is None
    adapters[identity(one)].proof = proof("i1", base_agrees=True)
    table = swapped(table, of(one), adapters)
    assert wanted_for("support-base", of(one), table) == one


@given(
    steps=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["n1", "n2"]), st.sampled_from("123"), st.sampled_from(["j", "k"])
            ),
            max_size=2,
            unique_by=lambda each: each[0],
        ),
        max_size=6,
    ),
    proved=st.sets(st.sampled_from("123")),
)
def test_no_name_without_a_proof_of_this_boot(
    steps: list[list[tuple[str, str, str]]], proved: set[str]
) -> None:
    """Whatever is wanted in whatever order."""
    adapters = {}
    for digest in "123":
        found = proof(f"i{digest}") if digest in proved else None
        adapters[identity(wanted(digest=digest))] = adapter(f"i{digest}", found)
    table = Table(boot=BOOT)
    for step in steps:
        table = swapped(
            table, of(*(wanted(n, digest=digest, job=job) for n, digest, job in step)), adapters
        )
        assert table.routes.keys() <= {name for name, _, _ in step}
        for name, digest, job in step:
            route = table.routes.get(name)
            if route is None:
                assert digest not in proved
                continue
            assert route.internal[1:] in proved
            assert route.job == job
            assert route.internal == f"i{digest}" or digest not in proved
