"""Which events wake the operator, and that kopf selects what it is told to."""

import itertools
from typing import Any

import kopf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kopf._cogs.structs.references import Resource

from finetune_operator.controller.handlers import (
    CHILDREN,
    Echoes,
    Forgetful,
    Patience,
    registry,
    settings,
)


def body(**changes: Any) -> dict[str, Any]:
    metadata = {
        "uid": "u",
        "name": "demo",
        "generation": 1,
        "resourceVersion": "1",
        "managedFields": [],
        "labels": {"team": "a"},
        "annotations": {"note": "x"},
    }
    return {"metadata": metadata | changes.pop("metadata", {}), "spec": {"a": 1}} | changes


@given(
    status=st.dictionaries(st.text(max_size=5), st.integers()),
    version=st.text(max_size=5),
    fields=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=3)), max_size=2),
)
def test_our_own_status_write_wakes_nobody(
    status: dict[str, int], version: str, fields: list[dict[str, str]]
) -> None:
    echoes = Echoes()
    assert echoes.is_news("ADDED", body())
    echo = body(status=status, metadata={"resourceVersion": version, "managedFields": fields})
    assert not echoes.is_news("MODIFIED", echo)


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"a": 2}},
        {"metadata": {"generation": 2}},
        {"metadata": {"labels": {"team": "b"}}},
        {"metadata": {"annotations": {}}},
        {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
        {"metadata": {"uid": "another"}},
    ],
    ids=str,
)
def test_any_other_change_does(change: dict[str, Any]) -> None:
    echoes = Echoes()
    echoes.is_news("ADDED", body())
    assert echoes.is_news("MODIFIED", body(**change))


def test_what_is_listed_anew_is_news_though_it_did_not_change() -> None:
    echoes = Echoes()
    echoes.is_news(None, body())
    assert echoes.is_news(None, body())
    assert not echoes.is_news("MODIFIED", body())


def test_a_deletion_is_news_and_is_forgotten() -> None:
    echoes = Echoes()
    echoes.is_news("ADDED", body())
    assert echoes.is_news("DELETED", body())
    assert echoes.is_news("MODIFIED", body())


@pytest.mark.parametrize("child", CHILDREN.values(), ids=lambda child: str(child[2]))
def test_the_server_sends_only_children_that_carry_the_label(child: tuple[str, str, str]) -> None:
    group, version, plural = child
    selectors = settings().watching.label_selectors
    resource = Resource(group=group, version=version, plural=plural)
    assert selectors.collect(resource) == ["finetune.dev/job"]


def test_a_request_is_repeated_for_ever_and_never_seldom() -> None:
    delays = settings().networking.error_backoffs
    assert isinstance(delays, Patience)
    for _ in range(2):
        taken = list(itertools.islice(delays, 1000))
        assert (len(taken), taken[0], max(taken)) == (1000, 0.5, 8.0)


def test_the_server_sends_every_job() -> None:
    resource = Resource(group="finetune.dev", version="v1alpha1", plural="finetunejobs")
    assert settings().watching.label_selectors.collect(resource) == []


def test_no_handler_makes_kopf_write_to_an_object() -> None:
    handlers = registry(lambda key, kind, now: None)
    assert isinstance(handlers, kopf.OperatorRegistry)
    assert len(handlers._watching.get_all_handlers()) == 1 + len(CHILDREN)
    assert not list(handlers._changing.get_all_handlers())
    assert not list(handlers._spawning.get_all_handlers())
    assert not list(handlers._indexing.get_all_handlers())


async def test_kopf_remembers_no_object() -> None:
    memories: Any = Forgetful()
    first = await memories.recall(body(), noticed_by_listing=True)
    assert first.noticed_by_listing
    assert await memories.recall(body()) is not first
    await memories.forget(body())
    assert not list(memories.iter_all_memories())
