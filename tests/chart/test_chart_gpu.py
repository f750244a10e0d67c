"""The copy of the operator's table of node labels, and the notes about GPU nodes."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from tests.support import helm
from tests.support.helm import CHART, Values

from finetune_operator.manifests.gpu.node_labels import CLOUD_NAMES

LABELS = CHART / "files" / "gpu-node-labels.yaml"
NOTES = 'notes: {{ include "finetune-operator.gpuNotes" . | toJson }}\n'


def test_chart_and_operator_have_the_same_node_labels() -> None:
    """``UPDATE_GOLDEN=1`` writes the file."""
    names = {
        label: {product: list(values) for product, values in names.items()}
        for label, names in CLOUD_NAMES.items()
    }
    if os.environ.get("UPDATE_GOLDEN"):
        LABELS.write_text(yaml.safe_dump(names, sort_keys=False, default_flow_style=None))
    assert yaml.safe_load(LABELS.read_text()) == names


@pytest.mark.parametrize(
    ("values", "notes"),
    [
        ({}, ["cloud.google.com/gke-accelerator in (nvidia-l4)", "product=NVIDIA-A10G"]),
        ({"gpu": {"products": ["NVIDIA-L4"]}}, ["nvidia.com/gpu.product in (NVIDIA-L4)\n"]),
        ({"gpu": {"products": []}}, ["run on the nodes that provide nvidia.com/gpu."]),
        ({"watchNamespaces": ["team-a"]}, ["kubectl get nodes -L cloud.google.com"]),
        ({"defaults": {"placement": {"nodeSelector": {"pool": "x"}}}}, ["only", "pool=x"]),
    ],
    ids=json.dumps,
)
def test_notes_are_rendered_without_a_cluster(
    values: Values, notes: list[str], tmp_path: Path
) -> None:
    chart = shutil.copytree(CHART, tmp_path / "finetune-operator")
    (chart / "templates" / "notes.yaml").write_text(NOTES)
    arguments = ["template", "x", str(chart), "--show-only=templates/notes.yaml"]
    output = helm.run(*arguments, f"--kube-version={helm.KUBERNETES}", values=values)
    text = yaml.safe_load(output)["notes"]
    assert all(note in text for note in notes), text
    assert "WARNING" not in text, "nothing is known about the nodes"
