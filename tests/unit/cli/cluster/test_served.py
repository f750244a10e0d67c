"""Where the model of a job answers, also while it moves from one place to another."""

from typing import Any
from unittest import mock

import pytest

from finetune_cli.cluster import served
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.job import Job
from finetune_cli.errors import CommandFailed

OLD = {"endpoint": "old", "names": ["support-old"]}
NEW = {"endpoint": "new", "names": ["support-new"]}
OWN = {"build": "0a1b2c3d", "model": "support-own"}


def pod(name: str, stage: str, *, build: str = "", key: bool = False) -> dict[str, Any]:
    env = [{"name": served.VLLM_KEY, "valueFrom": {}}] if key else []
    return {
        "metadata": {
            "name": name,
            "labels": {"finetune.dev/stage": stage, "finetune.dev/build": build},
        },
        "spec": {"containers": [{"name": "vllm", "env": env}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def place(
    status: dict[str, Any],
    *own: dict[str, Any],
    serving: dict[str, Any] | None = None,
    endpoints: tuple[str, ...] = ("new", "old"),
) -> served.Place:
    """Return the place of the job support, of whose endpoints new needs a key."""

    def visible(path: str, selector: str) -> list[dict[str, Any]]:
        name = selector.partition("=")[2]
        if name == "support":
            return list(own)
        return [pod(f"{name}-0", served.SHARED_STAGE)] if name in endpoints else []

    def get(path: str) -> dict[str, Any]:
        keys = {"keysSecretRef": {"name": "keys"}} if path.endswith("/new") else {}
        return {"spec": {"access": keys}}

    cluster = mock.Mock(spec=Cluster, visible=visible, get=get)
    return served.place(cluster, job(status, serving))


def job(status: dict[str, Any], serving: dict[str, Any] | None = None) -> Job:
    metadata = {"name": "support", "namespace": "team-a"}
    return Job(object={"metadata": metadata, "spec": {"serving": serving or {}}, "status": status})


def summary(found: served.Place) -> tuple[str | None, tuple[str, ...], bool]:
    name = None if found.pod is None else str(found.pod["metadata"]["name"])
    return name, found.names, found.needs_key


OWN_POD = pod("support-0", "serve", build="0a1b2c3d", key=True)
CANDIDATE = pod("support-1", "serve", build="ffffffff")


@pytest.mark.parametrize(
    ("status", "own", "expected"),
    [
        ({"serving": OWN}, OWN_POD, ("support-0", ("support-own",), True)),
        # To an endpoint, which loads the adapter and does not answer with it yet.
        ({"serving": OWN, "sharedModel": NEW}, OWN_POD, ("support-0", ("support-own",), True)),
        ({"serving": OWN, "sharedModel": NEW}, CANDIDATE, ("new-0", ("support-new",), True)),
        # From one endpoint to another.
        (
            {"serving": OWN, "sharedModel": NEW, "formerModel": OLD},
            CANDIDATE,
            ("old-0", ("support-old",), False),
        ),
        ({"serving": {"summary": "-"}}, CANDIDATE, (None, (), False)),
    ],
)
def test_pod_names_and_key_are_of_the_same_place(
    status: dict[str, Any],
    own: dict[str, Any],
    expected: tuple[str | None, tuple[str, ...], bool],
) -> None:
    assert summary(place(status, own)) == expected


def test_without_a_pod_the_spec_says_whether_a_key_is_needed() -> None:
    found = place({"serving": OWN}, serving={"apiKeySecretRef": {"name": "key", "key": "key"}})
    assert summary(found) == (None, ("support-own",), True)


def test_former_endpoint_without_a_pod_is_named() -> None:
    status = {"sharedModel": NEW, "formerModel": OLD}
    with pytest.raises(CommandFailed, match="nor one of FineTuneEndpoint old, answers requests"):
        served.answering(place(status, endpoints=("new",)), job(status))
