"""``status.staging``: what is downloaded now, as long as staging runs."""

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing

from finetune_operator.types import Progress

MEASURED = Progress(ratio=0.25, eta_seconds=61.7, downloaded_bytes=4 << 30, total_bytes=16 << 30)
SHOWN = {
    "downloadedBytes": 4 << 30,
    "totalBytes": 16 << 30,
    "progressPercent": 25,
    "etaSeconds": 62,
}


def staging(cluster: Cluster) -> Thing:
    """Look, and return what the status says about staging."""
    cluster.settle()
    found: Thing = cluster.status.get("preparation", {})
    return found


def at_staging() -> Cluster:
    """Return a cluster in which the stage pod runs."""
    cluster = Cluster()
    cluster.settle()
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "prepare"))
    return cluster


def test_what_has_arrived_is_shown() -> None:
    cluster = at_staging()
    assert staging(cluster) == {}
    cluster.progress = MEASURED
    assert staging(cluster) == SHOWN


def test_what_is_not_known_now_stays() -> None:
    cluster = at_staging()
    cluster.progress = MEASURED
    assert staging(cluster) == SHOWN
    cluster.progress = None
    assert staging(cluster) == SHOWN


def test_nothing_once_staging_is_over() -> None:
    cluster = at_staging()
    cluster.progress = MEASURED
    staging(cluster)
    controllers.run(cluster, "prepare")
    cluster.settle()
    assert staging(cluster) == {}
