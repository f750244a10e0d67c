"""A publish pod never keeps a volume that one node can mount from a serving pod."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing
from tests.unit.operator.reconcile.publishing.test_plan_publishing import (
    condition,
    jobs,
    served,
    target,
)

from finetune_operator.objects import naming


def publishing(**spec: Any) -> Cluster:
    """Return a served job whose model is being published."""
    cluster = served(target(), **spec)
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "publish"))
    cluster.settle()
    return cluster


def moved(cluster: Cluster, node: str | None) -> Thing:
    """Replace the serving pod by a pending one that is assigned to a node."""
    old = controllers.pod_of_stage(cluster, "serve")
    cluster.remove(old)
    controllers.sync(cluster)
    new = controllers.pod_of_stage(cluster, "serve")
    new["spec"] = {**new["spec"], **({} if node is None else {"nodeName": node})}
    cluster.touch(new)
    cluster.settle()
    return new


def is_stopped(cluster: Cluster) -> bool:
    return all("deletionTimestamp" in job["metadata"] for job in jobs(cluster))


def test_publishing_gives_the_volume_to_a_serving_pod_on_another_node() -> None:
    cluster = publishing()
    pod = moved(cluster, "node-2")
    assert is_stopped(cluster)
    controllers.stop(cluster, controllers.pod_of_stage(cluster, "publish"))
    controllers.sync(cluster)
    cluster.settle()
    assert len([job for job in jobs(cluster) if "deletionTimestamp" not in job["metadata"]]) == 0
    controllers.start(cluster, pod)
    controllers.serve(cluster)
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert condition(cluster, "Ready")["status"] == "True"


@pytest.mark.parametrize("node", [None, controllers.NODE])
def test_publishing_continues_beside_a_serving_pod_that_can_mount_the_volume(
    node: str | None,
) -> None:
    cluster = publishing()
    moved(cluster, node)
    assert not is_stopped(cluster)


def test_publishing_continues_on_a_volume_that_all_nodes_can_mount() -> None:
    cluster = publishing(storage={"accessMode": "ReadWriteMany"})
    (volume,) = cluster.each(naming.VOLUME)
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
    moved(cluster, "node-2")
    assert not is_stopped(cluster)


def test_publish_job_without_a_scheduled_pod_keeps_the_volume_from_no_pod() -> None:
    cluster = served(target())
    controllers.sync(cluster)
    publisher = controllers.pod_of_stage(cluster, "publish")
    assert "nodeName" not in publisher["spec"]
    moved(cluster, "node-2")
    assert not is_stopped(cluster)
    cluster.remove(publisher)
    cluster.settle()
    assert not is_stopped(cluster)
