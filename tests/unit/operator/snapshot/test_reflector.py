"""Lists and watches of one kind, against a scripted API server in virtual time."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from tests.fakes import virtual_time
from tests.fakes.kube_client import child

from finetune_operator.kube.client import Kube, Page
from finetune_operator.kube.errors import Gone, OperatorError, Restored, Transient
from finetune_operator.objects import naming
from finetune_operator.snapshot.reflector import WATCH_ATTEMPTS, Owners, Reflector
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import ENDPOINTS
from finetune_operator.types import Key, Object

KEY = ("a", "demo")


def pod(name: str, version: int) -> Any:
    each = child("Pod", name, status={"phase": str(version)})
    each["metadata"] |= {"uid": name, "resourceVersion": str(version)}
    return each


def event(what: str, name: str, version: int) -> Any:
    return {"type": what, "object": pod(name, version)}


def bookmark(version: int) -> Any:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}


def error(code: int) -> Any:
    return {"type": "ERROR", "object": {"code": code, "message": "too old"}}


class Script(Kube):
    """Answers each list and watch with the next of ``lists`` and ``watches``, then waits."""

    def __init__(self, lists: list[Any], watches: list[Any], kind: str = "Pod") -> None:
        self.lists, self.watches = lists, watches
        self.requests: list[str] = []
        self.times: list[float] = []
        self.store, self.news = ObjectStore(), list[tuple[Key, str, int, bool]]()
        self.of_endpoints, self.news_of_endpoints = ObjectStore(ENDPOINTS), list[Any]()
        self.reflector = Reflector(
            kube=self,
            owners=(
                Owners(store=self.store, notify=lambda *call: self.news.append(call)),
                Owners(
                    store=self.of_endpoints,
                    notify=lambda *call: self.news_of_endpoints.append(call),
                ),
            ),
            kind=kind,
            namespace="",
            turns=asyncio.Semaphore(1),
        )

    async def pages(self, *_: Any, **how: Any) -> AsyncGenerator[Page, None]:
        assert how["labels"] == "app.kubernetes.io/managed-by=finetune-operator"
        self.requests.append("list")
        if not self.lists:
            await asyncio.Event().wait()
        found = self.lists.pop(0)
        if isinstance(found, OperatorError):
            raise found
        version, *pages = found
        for items in pages:
            yield Page(items, str(version))

    async def watch(self, *_: Any, since: str, **how: Any) -> AsyncGenerator[Object, None]:
        self.requests.append(since)
        self.times.append(asyncio.get_running_loop().time())
        if not self.watches:
            await asyncio.Event().wait()
        for each in self.watches.pop(0):
            if isinstance(each, OperatorError):
                raise each
            yield each

    def names(self) -> list[str]:
        return [each["metadata"]["name"] for each in self.store.children(KEY)["pods"]]


def running(script: Callable[[], Script], test: Callable[[Script], Awaitable[None]]) -> None:
    """Run a test in virtual time, an hour after the reflector has started."""

    async def main() -> None:
        made = script()
        task = asyncio.create_task(made.reflector.run())
        await asyncio.sleep(3600)
        try:
            await test(made)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    virtual_time.run(main())


def test_a_list_is_followed_by_a_watch_from_its_version() -> None:
    async def test(script: Script) -> None:
        assert script.reflector.synced.is_set()
        assert script.requests == ["list", "7", "9"]
        assert script.names() == ["x", "z"]
        assert script.news == [
            (KEY, "Pod", 3, False),
            (KEY, "Pod", 4, False),
            (KEY, "Pod", 8, False),
            (KEY, "Pod", 9, True),
        ]

    events = [event("ADDED", "z", 8), event("DELETED", "y", 9)]
    running(lambda: Script([(7, [pod("x", 3)], [pod("y", 4)])], [events]), test)


def test_one_watch_serves_the_objects_of_jobs_and_those_of_endpoints() -> None:
    def labelled(what: str, name: str, version: int, **labels: str) -> Any:
        body = event(what, name, version)
        body["object"]["metadata"]["labels"] = {naming.MANAGER: naming.MANAGED_BY, **labels}
        return body

    async def test(script: Script) -> None:
        assert script.requests == ["list", "7", "12"]
        assert script.names() == []
        assert script.news == [
            (KEY, "Pod", 3, False),
            (KEY, "Pod", 9, True),
            (KEY, "Pod", 10, False),
            (KEY, "Pod", 11, True),
        ]
        shared = ("a", "shared")
        assert script.news_of_endpoints == [(shared, "Pod", 8, False), (shared, "Pod", 12, False)]
        late = labelled("ADDED", "x", 3, **{naming.ENDPOINT: "shared"})["object"]
        assert script.of_endpoints.put(late), "it does not remember the pods of jobs"

    events = [
        labelled("ADDED", "e", 8, **{naming.ENDPOINT: "shared"}),
        event("DELETED", "x", 9),
        event("ADDED", "y", 10),
        labelled("DELETED", "y", 11),
        labelled("MODIFIED", "e", 12),
    ]
    running(lambda: Script([(7, [pod("x", 3)])], [events]), test)


def test_the_end_of_a_deleted_pod_is_urgent() -> None:
    """Its result can be read only until it is gone, about a second later."""

    def terminating(version: int, phase: str) -> Any:
        each = pod("x", version)
        each["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return {"type": "MODIFIED", "object": {**each, "status": {"phase": phase}}}

    async def test(script: Script) -> None:
        assert script.news[1:] == [
            (KEY, "Pod", 8, False),
            (KEY, "Pod", 9, True),
        ]

    events = [terminating(8, "Running"), terminating(9, "Succeeded")]
    running(lambda: Script([(7, [pod("x", 3)])], [events]), test)


def test_a_deployment_that_answers_or_answered_is_urgent() -> None:
    """Otherwise it changes as often as its pods while they start."""

    def deployment(version: int, available: int, updated: int) -> Any:
        each = child("Deployment", "d")
        each["metadata"] |= {"uid": "d", "resourceVersion": str(version), "generation": 1}
        replicas = {"updatedReplicas": updated, "availableReplicas": available}
        return {**each, "status": {"observedGeneration": 1, **replicas}}

    async def test(script: Script) -> None:
        assert script.news == [
            (KEY, "Deployment", 3, False),
            (KEY, "Deployment", 8, True),
            (KEY, "Deployment", 9, True),
            (KEY, "Deployment", 10, False),
        ]

    steps = ((8, 1, 1), (9, 0, 1), (10, 0, 0))
    events = [{"type": "MODIFIED", "object": deployment(*each)} for each in steps]
    lists = [(7, [deployment(3, 0, 1)])]
    running(lambda: Script(lists, [events], "Deployment"), test)


def test_a_bookmark_moves_the_version_from_which_a_watch_continues() -> None:
    async def test(script: Script) -> None:
        assert script.requests == ["list", "7", "20", "20"]
        assert script.news == []

    running(lambda: Script([(7, [])], [[bookmark(20)], []]), test)


def test_only_a_watch_without_news_waits_before_it_continues() -> None:
    async def test(script: Script) -> None:
        assert script.requests == ["list", "7", "8", "8"]
        first, second, third = script.times
        assert second == first
        assert third > second

    running(lambda: Script([(7, [])], [[bookmark(8)], []]), test)


@pytest.mark.parametrize("how", [error(410), Gone("410")], ids=["event", "status"])
def test_after_a_version_is_too_old_the_objects_are_listed_again(how: Any) -> None:
    async def test(script: Script) -> None:
        assert script.requests == ["list", "7", "list", "9"]
        assert script.names() == ["y"]
        assert script.news[-1] == (KEY, "Pod", 9, True), "the deletion was not reported otherwise"

    running(lambda: Script([(7, [pod("x", 3), pod("y", 4)]), (9, [pod("y", 4)])], [[how]]), test)


def test_a_watch_that_fails_is_continued_before_the_objects_are_listed_again() -> None:
    async def test(script: Script) -> None:
        first = ["list", *["7"] * WATCH_ATTEMPTS]
        assert script.requests == [*first, "list", "8"]

    failing = [[Transient("cut")] for _ in range(WATCH_ATTEMPTS)]
    running(lambda: Script([(7, []), (8, [])], failing), test)


def test_a_watch_with_events_resets_the_count_of_failures() -> None:
    async def test(script: Script) -> None:
        assert script.requests == ["list", "7", "8", "9", "10", "11"]

    watches = [[event("MODIFIED", "x", 8 + n), Transient("cut")] for n in range(4)]
    running(lambda: Script([(7, [])], watches), test)


@pytest.mark.parametrize(
    "garbage",
    [
        {"message": "<html>"},
        {"type": "ADDED"},
        {"type": "ADDED", "object": {"metadata": {"resourceVersion": "9"}}},
        {"type": "ADDED", "object": []},
        {"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "x"}}},
        error(500),
    ],
    ids=str,
)
def test_garbage_in_a_stream_is_a_failure_of_the_watch(garbage: Any) -> None:
    async def test(script: Script) -> None:
        assert script.requests == ["list", "7", "7", "10"]
        assert script.names() == ["x"]

    watches = [[garbage, event("ADDED", "y", 9)], [event("ADDED", "x", 10)]]
    running(lambda: Script([(7, [])], watches), test)


def test_a_failed_list_is_repeated_and_nothing_is_synced_before() -> None:
    async def main() -> None:
        script = Script([Transient("503"), Transient("503"), (7, [])], [])
        task = asyncio.create_task(script.reflector.run())
        await asyncio.sleep(0.1)
        assert not script.reflector.synced.is_set()
        await asyncio.sleep(60)
        assert script.requests == ["list"] * 3 + ["7"]
        assert script.reflector.synced.is_set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual_time.run(main())


def test_a_list_that_is_older_than_the_cache_ends_the_process() -> None:
    async def main() -> None:
        script = Script([(7, []), (6, [])], [[event("ADDED", "x", 8), Gone("410")]])
        with pytest.raises(
            Restored, match=r"has resourceVersion 6, but .* newer resourceVersion 8"
        ):
            await script.reflector.run()

    virtual_time.run(main())


def test_a_list_with_an_older_object_ends_the_process() -> None:
    """After a restore with ``--bump-revision``, only the version of the list is higher."""

    async def main() -> None:
        script = Script(
            [(7, [pod("x", 5)]), (100, [pod("x", 5)])], [[event("MODIFIED", "x", 8), Gone("410")]]
        )
        observed = r"observed .*/x with resourceVersion 8\. .* 100\) contains .* resourceVersion 5:"
        with pytest.raises(Restored, match=observed):
            await script.reflector.run()

    virtual_time.run(main())


def test_an_own_write_that_is_newer_than_a_list_stays() -> None:
    async def main() -> None:
        script = Script([(7, [])], [])
        script.store.put(pod("own", 8))
        task = asyncio.create_task(script.reflector.run())
        await asyncio.sleep(1)
        assert script.names() == ["own"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual_time.run(main())
