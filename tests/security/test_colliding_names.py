"""Two recipes whose digests begin with the same 8 digits, so that one would pass as the other."""

import itertools
import json
from functools import cache
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, SPEC, Cluster, Thing, copied, merge

from finetune_api.base import Values
from finetune_api.defaulting import builtin_defaults, effective_defaults, resolve
from finetune_api.markers import Edit
from finetune_api.revision_hash import digest, name_of, part_of
from finetune_operator.actions import Create
from finetune_operator.revisions.ledger import Ledger

pytestmark = pytest.mark.finding(9, "two recipes of one name")
APPROVED, POISONED = "hf://acme/approved-dataset", "hf://hostile/poisoned-dataset"


@cache
def colliding() -> tuple[Thing, Thing]:
    """Return changes of the spec for the approved and the poisoned dataset, with equal names.

    An attacker needs about 65,000 values of spec.rerun for each dataset.
    """
    seen: dict[str, dict[str, str]] = {APPROVED: {}, POISONED: {}}
    parts = {source: training_part(source) for source in seen}
    for number in itertools.count():
        for source, other in ((APPROVED, POISONED), (POISONED, APPROVED)):
            name = name_of(digest({**parts[source], "rerun": f"n{number}"}))
            seen[source][name] = f"n{number}"
            if name in seen[other]:
                return changes(APPROVED, seen[APPROVED][name]), changes(
                    POISONED, seen[POISONED][name]
                )
    raise AssertionError("unreachable")


def training_part(source: str) -> Values:
    spec = copied(SPEC)
    merge(spec, changes(source, "any"))
    return part_of(resolve(spec, effective_defaults(CONFIG.defaults)).spec, Edit.RETRAIN)


def changes(source: str, rerun: str) -> Thing:
    return {"dataset": {"source": source}, "rerun": rerun}


def reason(cluster: Cluster) -> str:
    return str(cluster.status["conditions"][0]["reason"])


def work(cluster: Cluster) -> None:
    """Let the operator and all controllers work, and terminating pods end."""
    for _ in range(6):
        controllers.serve(cluster)
        for pod in cluster.each("Pod"):
            if controllers.alive(pod) and "deletionTimestamp" in pod["metadata"]:
                controllers.stop(cluster, pod)


def serving(first: Thing) -> Cluster:
    """Return a cluster whose job was trained with some changes of the spec, and serves."""
    spec = copied(SPEC)
    merge(spec, first)
    cluster = Cluster(spec=spec)
    controllers.run_all(cluster)
    assert reason(cluster) == "Serving"
    return cluster


def test_the_names_collide_and_the_digests_differ() -> None:
    approved, poisoned = (
        resolve({**SPEC, **_spec(each)}, builtin_defaults()) for each in colliding()
    )
    assert approved.revision == poisoned.revision
    assert approved.digest != poisoned.digest
    assert approved.build_digest != poisoned.build_digest


def _spec(changed: Thing) -> Thing:
    return {"dataset": {**SPEC["dataset"], **changed["dataset"]}, "rerun": changed["rerun"]}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["approved first", "poisoned first"])
def test_another_recipe_of_the_same_name_is_not_the_trained_one(order: tuple[int, int]) -> None:
    first, second = (colliding()[each] for each in order)
    cluster = serving(first)
    before = (copied(cluster.status["revisions"]), dict(cluster.objects))
    cluster.edit(**second)
    planned = cluster.plan()
    assert planned.actions == ()
    cluster.settle()
    assert reason(cluster) == "InvalidSpec"
    message = cluster.status["conditions"][0]["message"]
    assert cluster.status["revision"] in message
    assert "To get another name, set spec.rerun to a new value" in message
    assert (cluster.status["revisions"], cluster.objects) == before

    cluster.edit(rerun="another")
    controllers.run_all(cluster)
    assert reason(cluster) == "Serving"
    assert len({each["frozen"]["digest"] for each in cluster.status["revisions"]}) == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["approved first", "poisoned first"])
def test_a_retained_revision_does_not_pass_as_another_recipe(order: tuple[int, int]) -> None:
    """The first one neither serves nor is the target any more when the second one is asked for."""
    first, second = (colliding()[each] for each in order)
    cluster = serving(first)
    cluster.edit(rerun="between")
    controllers.run_all(cluster)
    work(cluster)
    served = copied(cluster.status["serving"])
    cluster.edit(**second)
    cluster.settle()
    assert reason(cluster) == "InvalidSpec"
    assert cluster.status["serving"] == served
    cluster.edit(**first)
    cluster.settle()
    jobs = [each["metadata"]["uid"] for each in cluster.each("Job")]
    work(cluster)
    assert reason(cluster) == "Serving"
    assert [each["metadata"]["uid"] for each in cluster.each("Job")] == jobs, "nothing is repeated"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["approved first", "poisoned first"])
def test_the_name_is_free_after_the_other_revision_was_pruned(order: tuple[int, int]) -> None:
    first, second = (colliding()[each] for each in order)
    cluster = serving({**first, "revisionHistoryLimit": 0})
    (old,) = cluster.status["revisions"]
    cluster.edit(rerun="between")
    controllers.run_all(cluster)
    work(cluster)
    assert [each["revision"] for each in cluster.status["revisions"]] != [old["revision"]]
    cluster.edit(**second)
    controllers.run_all(cluster)
    assert reason(cluster) == "Serving"
    new = cluster.status["revisions"][-1]
    assert new["revision"] == old["revision"]
    assert new["frozen"]["digest"] != old["frozen"]["digest"]
    assert [each["outcome"] for each in new["stages"]] == ["Completed"] * 4


def test_remains_of_a_pruned_revision_are_not_used() -> None:
    """Its ConfigMap is still there when a recipe of the same name starts."""
    first, second = colliding()
    cluster = serving(first)
    remains = next(cluster.each("ConfigMap"))
    spec = copied(SPEC)
    merge(spec, second)
    cluster = Cluster(spec=spec)
    remains["metadata"]["uid"] = "remains"
    cluster.objects["ConfigMap", remains["metadata"]["name"]] = remains
    cluster.settle()
    assert reason(cluster) == "ConfigurationChanged"
    assert not list(cluster.each("Job"))


@pytest.mark.parametrize("field", ["merge", "serving"])
def test_another_build_of_the_same_name_is_not_the_merged_one(field: str) -> None:
    cluster = serving(colliding()[0])
    edits: dict[str, Any] = {"merge": {"dtype": "bfloat16"}, "serving": {"mode": "adapter"}}
    cluster.edit(**{field: edits[field]})
    target = cluster.plan().status["build"]
    cluster.edit(**{field: None})
    cluster.settle()
    for attempt in cluster.status["revisions"][0]["stages"]:
        if "build" in attempt:
            # As if the digests of both builds began with the same digits.
            attempt["build"] = target
    cluster.edit(**{field: edits[field]})
    planned = cluster.plan()
    assert planned.actions == ()
    ready = planned.status["conditions"][0]
    assert ready["reason"] == "InvalidSpec"
    assert f"its name {target} belongs to another build" in ready["message"]


def test_files_of_another_revision_of_the_same_name_are_not_reused() -> None:
    """The volume's folders belong to a digest: prepare downloads again, and merge refuses."""
    documents = []
    for changed in colliding():
        spec = copied(SPEC)
        merge(spec, changed)
        cluster = Cluster(spec=spec)
        (configmap,) = (
            action.object
            for action in cluster.plan().actions
            if isinstance(action, Create) and action.object["kind"] == "ConfigMap"
        )
        documents.append(configmap)
    names = {each["metadata"]["name"] for each in documents}
    keys = {_digest(each) for each in documents}
    assert (len(names), len(keys)) == (1, 2)


def _digest(configmap: Any) -> str:
    return str(json.loads(configmap["data"]["job.json"])["digest"])


def test_ledger_finds_revisions_by_name_and_compares_digests() -> None:
    cluster = serving(colliding()[0])
    ledger = Ledger.parse(cluster.status["revisions"], cluster.status["ledgerVersion"])
    frozen = ledger.frozen(cluster.status["revision"])
    assert frozen is not None
    assert frozen.digest == digest({**training_part(APPROVED), "rerun": colliding()[0]["rerun"]})
