"""An API server accepts the objects that the docs print beside FineTuneJobs."""

import json
from typing import Any

import pytest
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.manifest_files import kubectl, printed

FOREIGN = {
    "kueue.x-k8s.io",
    "gateway.networking.k8s.io",
    "karpenter.sh",
    "external-secrets.io",
    "serving.kserve.io",
}
"""API groups of other projects; a control plane without these projects does not know them."""


def _group(found: dict[str, Any]) -> str:
    group, _, version = found["apiVersion"].partition("/")
    return str(group) if version else ""


OTHERS = {place: each for place, each in printed().items() if each["kind"] != "FineTuneJob"}
BUILTIN = {place: each for place, each in OTHERS.items() if _group(each) not in FOREIGN}


def test_every_foreign_group_is_in_the_docs() -> None:
    assert {_group(each) for each in OTHERS.values()} >= FOREIGN
    assert {each["kind"] for each in BUILTIN.values()} >= {"Ingress", "HorizontalPodAutoscaler"}


@pytest.mark.parametrize("place", BUILTIN)
def test_a_documented_object_has_only_known_fields(
    control_plane: ControlPlane, namespace: str, place: str
) -> None:
    found = BUILTIN[place]
    # An object that names its namespace is created there by the reader; here, it does not exist.
    found = {**found, "metadata": {**found["metadata"], "namespace": namespace}}
    options = ("--dry-run=server", "--validate=strict", "-f", "-")
    done = kubectl(control_plane, "create", *options, stdin=json.dumps(found))
    assert done.returncode == 0, done.stderr
