"""A volume that is too small is expanded if its StorageClass allows it; the stage is retried.

Admission and binding are those of the real API server and controller manager. The tests do not
simulate the storage driver that expands the volume.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.fakes import kubelet
from tests.integration.test_operator_with_controllers import all_complete, run_stages, uids_of_pods
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess

pytestmark = pytest.mark.usefixtures("controller_manager")

Classes = Callable[[bool], str]


@pytest.fixture
def storage(control_plane: ControlPlane, namespace: str) -> Iterator[Classes]:
    """Return a function that creates a StorageClass, with or without expansion, and a volume."""
    made: list[str] = []

    def make(grows: bool) -> str:
        name = f"{namespace}-class"
        classes, volumes = "/apis/storage.k8s.io/v1/storageclasses", "/api/v1/persistentvolumes"
        control_plane.post(
            classes,
            {
                "metadata": {"name": name},
                "provisioner": "example.com/none",
                "allowVolumeExpansion": grows,
            },
        )
        control_plane.post(
            volumes,
            {
                "metadata": {"name": name},
                "spec": {
                    "storageClassName": name,
                    "capacity": {"storage": "10Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "csi": {"driver": "example.com.none", "volumeHandle": name},
                },
            },
        )
        made.extend((f"{classes}/{name}", f"{volumes}/{name}"))
        return name

    yield make
    for path in made:
        control_plane.delete(path)


def full(stage: str) -> dict[str, Any]:
    if stage != "prepare":
        return all_complete(stage)
    message = "12.3 GB are needed, 9.9 GB are there; raise storage.size to 20Gi"
    return kubelet.failed(stage, code=73, reason="VolumeFull", message=message)


def claim(place: Namespace) -> dict[str, Any]:
    (found,) = place.items("persistentvolumeclaims")
    return found


def begin(place: Namespace, storage_class: str) -> dict[str, Any]:
    """Let a job fail on a full volume; return its claim."""
    place.submit(spec={"storage": {"size": "10Gi", "storageClassName": storage_class}})
    assert run_stages(place, "VolumeFull", full) == ["prepare"]
    wait_until("the claim is bound", lambda: claim(place)["status"]["phase"] == "Bound")
    return claim(place)


def enlarge(place: Namespace) -> None:
    place.plane.merge(place.path("finetunejobs", "demo"), {"spec": {"storage": {"size": "20Gi"}}})


def test_a_larger_size_expands_the_volume_and_retries_the_stage(
    operator: OperatorProcess, place: Namespace, storage: Classes
) -> None:
    before = begin(place, storage(True))
    revision, known = place.job()["status"]["revision"], uids_of_pods(place)
    enlarge(place)
    stages = run_stages(place, "Serving", known=known)
    assert stages == ["prepare", "train", "merge", "serve"]
    after = claim(place)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"] == {**before["spec"], "resources": {"requests": {"storage": "20Gi"}}}
    status = place.job()["status"]
    assert status["revision"] == revision
    (record,) = status["revisions"]
    assert [(each["stage"], each["attempt"]) for each in record["stages"]] == [
        ("prepare", 2),
        ("train", 1),
        ("merge", 1),
        ("serve", 1),
    ]
    assert operator.failures() == []


def test_a_class_without_expansion_is_reported_and_loses_nothing(
    operator: OperatorProcess, place: Namespace, storage: Classes
) -> None:
    before = begin(place, storage(False))
    enlarge(place)
    said = "must support resize"
    wait_until("the cause is reported", lambda: said in place.condition("Ready")["message"])
    assert place.condition("Stalled")["status"] == "True"
    assert claim(place)["spec"] == before["spec"]
    assert len(place.items("jobs")) == 1
    # After the StorageClass is fixed, the job continues by itself.
    name = before["spec"]["storageClassName"]
    place.plane.merge(
        f"/apis/storage.k8s.io/v1/storageclasses/{name}", {"allowVolumeExpansion": True}
    )
    place.plane.merge(place.path("finetunejobs", "demo"), {"metadata": {"labels": {"a": "b"}}})
    run_stages(place, "Serving")
    assert claim(place)["metadata"]["uid"] == before["metadata"]["uid"]
