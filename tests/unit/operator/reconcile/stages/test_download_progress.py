"""``status.preparation``: download progress during data preparation."""

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing

from finetune_operator.types import PodProgress

MEASURED = PodProgress(
    pod="", ratio=0.25, eta_seconds=61.7, downloaded_bytes=4 << 30, total_bytes=16 << 30
)
SHOWN = {
    "downloadedBytes": 4 << 30,
    "totalBytes": 16 << 30,
    "progressPercent": 25,
    "etaSeconds": 62,
}


def preparation(cluster: Cluster) -> Thing:
    """Reconcile, and return ``status.preparation``."""
    cluster.settle()
    found: Thing = cluster.status.get("preparation", {})
    return found


def at_preparation() -> Cluster:
    """Return a cluster in which the prepare pod runs."""
    cluster = Cluster()
    cluster.settle()
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "prepare"))
    return cluster


def test_downloaded_bytes_are_in_the_status() -> None:
    cluster = at_preparation()
    assert preparation(cluster) == {}
    cluster.progress = MEASURED
    assert preparation(cluster) == SHOWN


def test_a_download_of_unknown_size_has_no_empty_fields() -> None:
    cluster = at_preparation()
    cluster.progress = PodProgress(pod="", downloaded_bytes=5)
    assert cluster.settle().status["preparation"] == {"downloadedBytes": 5}


def test_previous_download_progress_is_kept_without_a_measurement() -> None:
    cluster = at_preparation()
    cluster.progress = MEASURED
    assert preparation(cluster) == SHOWN
    cluster.progress = None
    assert preparation(cluster) == SHOWN


def test_download_progress_is_empty_after_data_preparation() -> None:
    cluster = at_preparation()
    cluster.progress = MEASURED
    preparation(cluster)
    controllers.run(cluster, "prepare")
    cluster.settle()
    assert preparation(cluster) == {}
