"""The team whose job and endpoint the pictures show, on the local cluster."""

from __future__ import annotations

from pathlib import Path

import yaml

from cluster import kubectl
from cluster.components import node
from cluster.demo import job

MANIFEST = Path(__file__).parent / "demo.yaml"
NAMESPACE, JOB, ENDPOINT = "team-a", "packages", "chat"
PROFILE = "starter"
FORM = {
    "name": "packages-large",
    "namespace": NAMESPACE,
    "model.source": "hf://demo/smollm2-135m-instruct",
    "dataset.source": "hf://demo/debian-packages",
    "training.epochs": "12",
}
"""What is typed into the form of a new job."""
GPUS = 4
"""One each for the jobs with a pod of their own and the endpoint, and one for training."""
SECONDS = 1800.0
"""Without a new stage or a new step: the jobs share the cores of one machine."""


def ensure() -> None:
    """Create what is missing; return when the job and the endpoint serve. Raises NotReady."""
    client = kubectl.local()
    node.advertise_gpus(GPUS)
    objects = list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))
    client.apply(*objects)
    for manifest in objects:
        if manifest["kind"] == "FineTuneJob":
            job.watch(client, manifest["metadata"]["name"], NAMESPACE, timeout=SECONDS)
