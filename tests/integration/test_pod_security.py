"""A namespace with the restricted Pod Security Standard admits every pod of every job."""

from typing import Any

import pytest
from tests.support.api_server.controlplane import ApiError, ControlPlane
from tests.support.rendered import SETS, children, template

from finetune_cli.copying import pod as copying

PODS = [
    pytest.param(template(thing), id=f"{name} {title}")
    for name, given in SETS.items()
    for title, thing in children(*given).items()
    if template(thing)
]
PODS.append(pytest.param(copying.render("copy", "claim", copying.Place()), id="ftj copy"))


@pytest.fixture(scope="module")
def restricted(control_plane: ControlPlane) -> str:
    """The path of the pods of a namespace that enforces the restricted standard."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"metadata": {"name": "restricted-jobs", "labels": label}}
    control_plane.post("/api/v1/namespaces", body)
    return "/api/v1/namespaces/restricted-jobs/pods?dryRun=All"


@pytest.mark.parametrize("pod", PODS)
def test_pod_is_admitted_to_a_restricted_namespace(
    control_plane: ControlPlane, restricted: str, pod: dict[str, Any]
) -> None:
    spec = {key: value for key, value in pod["spec"].items() if key != "priorityClassName"}
    body = {"metadata": {"name": "child"} | pod["metadata"], "spec": spec}
    control_plane.post(restricted, body)
    for container in range(len(spec["containers"])):
        open_ = [dict(each) for each in spec["containers"]]
        del open_[container]["securityContext"]
        with pytest.raises(ApiError, match="violates PodSecurity"):
            control_plane.post(restricted, {**body, "spec": {**spec, "containers": open_}})
