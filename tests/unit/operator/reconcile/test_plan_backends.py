"""The training library of a revision: recorded once, and equal to ``auto`` if auto selects it."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing, stored
from tests.support.reconcile.plan_steps import MERGED, TRAINED, run, serve, settle
from tests.unit.operator.reconcile.test_plan_edits import upgraded

REASON = "the trainer image does not contain Unsloth"


def backend(name: str, automatic: str) -> dict[str, str]:
    return {"name": name, "version": "1.0", "reason": REASON, "automatic": automatic}


def written(name: str | None) -> Any:
    return {"advanced": {"backend": name}} if name else None


def record(cluster: Cluster, revision: str) -> Thing:
    (found,) = [each for each in cluster.status["revisions"] if each["revision"] == revision]
    return dict(found)


def prepared(before: str | None, name: str, automatic: str) -> Cluster:
    """Return a cluster whose job sets ``before``, and whose prepare stage selected ``name``."""
    cluster = Cluster()
    cluster.edit(training=written(before))
    text = controllers.message("prepare", artifacts={"backend": backend(name, automatic)})
    controllers.run(cluster, "prepare", text=text)
    cluster.settle()
    return cluster


def test_status_has_the_backend_that_prepare_selected_and_the_reason() -> None:
    cluster = prepared(None, "trl", "trl")
    (revision,) = cluster.status["revisions"]
    assert revision["backend"] == backend("trl", "trl")


@pytest.mark.parametrize(
    "unknown",
    [
        "trl 1.0",
        {"name": "trl"},
        backend("axolotl", "trl"),
        backend("trl", "trl") | {"reason": "r" * 1000},
    ],
)
def test_backend_of_an_unknown_form_is_ignored(unknown: Any) -> None:
    cluster = Cluster()
    text = controllers.message("prepare", artifacts={"backend": unknown, "rows": 3})
    controllers.run(cluster, "prepare", text=text)
    cluster.settle()
    (revision,) = cluster.status["revisions"]
    assert "backend" not in revision
    assert revision["data"] == {"rows": 3}


EQUAL = [
    # The job sets no backend, and writes the selected one later.
    (None, "trl", "trl", "trl"),
    (None, "unsloth", "unsloth", "unsloth"),
    (None, "trl", "trl", "auto"),
    # The job sets a backend, and leaves the choice to prepare later.
    ("trl", "trl", "trl", None),
    ("trl", "trl", "trl", "auto"),
    ("unsloth", "unsloth", "unsloth", None),
]
DIFFERENT = [
    (None, "trl", "trl", "unsloth"),
    (None, "unsloth", "unsloth", "trl"),
    ("trl", "trl", "unsloth", None),
    ("trl", "trl", "unsloth", "unsloth"),
    ("unsloth", "unsloth", "unsloth", "trl"),
]


@pytest.mark.parametrize(("before", "name", "automatic", "after"), EQUAL)
def test_auto_and_the_backend_that_it_selects_are_equal(
    before: str | None, name: str, automatic: str, after: str | None
) -> None:
    cluster = prepared(before, name, automatic)
    for step in (TRAINED, MERGED, serve, settle):
        step(cluster)
    at_first = cluster.status
    cluster.edit(training=written(after))
    planned = cluster.plan()
    assert (planned.status["revision"], planned.status["build"]) == (
        at_first["revision"],
        at_first["build"],
    )
    assert stored(planned.status)["revisions"] == at_first["revisions"]
    kinds = {action.object["kind"] for action in planned.actions}
    assert not kinds & {"Job", "ConfigMap", "PersistentVolumeClaim"}
    cluster.settle()
    upgraded(cluster)
    assert cluster.plan().status["revision"] == at_first["revision"]


@pytest.mark.parametrize(("before", "name", "automatic", "after"), DIFFERENT)
def test_another_backend_is_an_edit(
    before: str | None, name: str, automatic: str, after: str | None
) -> None:
    cluster = prepared(before, name, automatic)
    at_first = cluster.status["revision"]
    cluster.edit(training=written(after))
    cluster.settle()
    assert cluster.status["revision"] != at_first
    # The earlier revision is selected again if the spec is equal to it again.
    equal = automatic if before is None else before
    cluster.edit(training=written(equal))
    cluster.settle()
    assert cluster.status["revision"] == at_first


def test_edit_of_the_recipe_with_the_selected_backend_is_an_edit() -> None:
    cluster = prepared(None, "trl", "trl")
    at_first = cluster.status["revision"]
    cluster.edit(training={"seed": 1, **written("trl")})
    assert cluster.plan().status["revision"] != at_first


def test_written_backend_is_an_edit_before_prepare_has_selected_one() -> None:
    cluster = Cluster()
    run("prepare", 75, controllers.message("prepare", "failed", reason="Transient"))(cluster)
    at_first = cluster.status["revision"]
    cluster.edit(training=written("trl"))
    assert cluster.plan().status["revision"] != at_first


def test_attempts_after_an_image_upgrade_keep_the_backend_and_the_frozen_image() -> None:
    cluster = prepared(None, "trl", "trl")
    at_first = record(cluster, cluster.status["revision"])["backend"]
    upgraded(cluster)
    settle(cluster)
    controllers.run(cluster, "train", 137)
    cluster.edit(storage={"size": "80Gi"})
    settle(cluster)
    (train,) = [job for job in cluster.each("Job") if "-train-" in job["metadata"]["name"]][-1:]
    (container,) = train["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry/trainer:1"
    assert record(cluster, cluster.status["revision"])["backend"] == at_first
