"""A hub that is slow, disconnects, or is full: the reported condition, and the next attempt.

Whatever fails, a branch has the complete model in one commit, or nothing of it.
"""

from typing import Any

import httpx
import pytest
from tests.fakes.model_hub import DELAY, ModelHub
from tests.support.trainer.hub_target import REPO
from tests.support.trainer.publishing import Published, Volume
from tests.trainer.publishing.test_hub import (
    _without_pauses,
    publish,
    target,
)

from finetune_trainer.errors import PublishFailed, Transient
from finetune_trainer.publishing.hub import client, push

__all__ = ["_without_pauses", "target"]
ATTEMPTS = 4
REQUESTS = [
    ("POST", "/api/repos/create"),
    ("GET", "/api/models/"),
    ("POST", "/preupload/"),
    ("POST", "/batch"),
    ("PUT", "/lfs/"),
    ("POST", "/complete/"),
    ("POST", "/verify"),
    ("POST", "/commit/"),
    ("POST", "/tag/"),
]
"""The requests that publish a model to an empty hub, each by its method and a part of its path."""


def assert_only_model(hub: ModelHub, done: Published) -> None:
    """Compare the branch: it has one commit after the empty one, which has a name."""
    assert done.error is None, done.failure
    repo = hub.repos[REPO]
    assert len(repo.commits) == 2
    assert {*repo.tags.values()} == {repo.branches["main"]}
    assert done.only.digest == f"sha1:{repo.branches['main']}"


def assert_transient(hub: ModelHub, done: Published, *said: str) -> None:
    reason, message = done.failure
    assert (reason, type(done.error)) == ("Transient", Transient), message
    assert all(each in message for each in ("next attempt sends only the files", hub.url, *said))


def test_requests_are_all_that_a_hub_gets(
    volume: Volume, hub: ModelHub, target: dict[str, Any]
) -> None:
    publish(volume, target)
    others = [
        each
        for each in hub.requests
        if not any(each.startswith(f"{method} ") and path in each for method, path in REQUESTS)
    ]
    assert {*others} <= {"POST /api/validate-yaml"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_hub_that_disconnects_once(
    volume: Volume, hub: ModelHub, target: dict[str, Any], method: str, path: str, when: str
) -> None:
    hub.breaks = [(method, path, when)]
    for _ in range(ATTEMPTS):
        done = publish(volume, target)
        if done.error is None:
            break
        assert_transient(hub, done)
    assert not hub.breaks
    assert_only_model(hub, done)


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_hub_that_always_disconnects(
    volume: Volume, hub: ModelHub, target: dict[str, Any], method: str, path: str
) -> None:
    hub.breaks = [(method, path, "before")] * 1000
    assert_transient(hub, publish(volume, target), "is unreachable")
    complete = {*hub.large}
    hub.breaks = []
    hub.received.clear()
    assert_only_model(hub, publish(volume, target))
    assert not complete & {oid for oid, _ in hub.received}, "a complete file was sent again"


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_slow_hub(
    volume: Volume,
    hub: ModelHub,
    target: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", httpx.Timeout(DELAY / 3))
    monkeypatch.setattr(push, "TIMEOUT_SECONDS", DELAY / 3)
    hub.slow = (method, path)
    assert_transient(hub, publish(volume, target), "timed out")
    hub.slow = None
    monkeypatch.undo()
    assert_only_model(hub, publish(volume, target))


@pytest.mark.parametrize("files", [0, 1, 2])
def test_hub_that_is_full_after_some_files(
    volume: Volume, hub: ModelHub, target: dict[str, Any], files: int
) -> None:
    """The files that it has are not sent again once there is space."""
    hub.space = files
    done = publish(volume, target)
    reason, message = done.failure
    assert (reason, type(done.error)) == ("TargetRejected", PublishFailed)
    assert "has no space left" in message
    assert len(hub.repos[REPO].commits) == 1
    complete = {*hub.large}
    assert len(complete) == files
    hub.space = None
    hub.received.clear()
    assert_only_model(hub, publish(volume, target))
    assert not complete & {oid for oid, _ in hub.received}
