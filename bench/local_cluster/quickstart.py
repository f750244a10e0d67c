"""``python bench quickstart``: run the quickstart once on the local cluster and measure it."""

import argparse
import time
from pathlib import Path

import yaml
from tests.support.local_cluster import recorder
from tests.support.local_cluster.target import Cluster, local_kubectl, namespaces
from tests.support.local_cluster.tuning import Tuning

from bench.local_cluster import process, timeline
from bench.local_cluster.report import Run, markdown

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
NAMESPACE = "e2e-bench"
READY_SECONDS = 1200.0


def measure(_: argparse.Namespace) -> str:
    """Run the benchmark and return its tables."""
    print("==> check cluster, images and operator", flush=True)
    kubectl = local_kubectl()
    with recorder.recording(kubectl) as record:
        cluster = Cluster(kubectl=kubectl, record=record)
        cluster.wait_for_operator()
        cluster.require_free_gpu()
        return markdown(_measure(cluster))


def _measure(cluster: Cluster) -> Run:
    print("==> restart the operator", flush=True)
    started = process.start_seconds(cluster)
    job = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    with namespaces(cluster, NAMESPACE):
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name=job["metadata"]["name"])
        before = process.cost(cluster)
        print("==> run the quickstart (a few minutes)", flush=True)
        applied = time.time()
        cluster.kubectl.run("apply", "-f", str(EXAMPLE), f"--namespace={NAMESPACE}")
        tuning.wait_until("Ready", seconds=READY_SECONDS)
        after = process.cost(cluster)
        return Run(
            timeline=timeline.read(tuning, applied=applied),
            steps=int(tuning.status()["training"]["maxSteps"]),
            start_seconds=started,
            cost=after.since(before),
        )
