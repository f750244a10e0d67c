"""Profiles with a real operator: their status, the jobs that they hold and start, and the menu."""

import json
from typing import Any

from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.manifest_files import kubectl
from tests.support.api_server.namespace import Namespace, condition_of
from tests.support.api_server.operatorprocess import OperatorProcess

from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION

PROFILES = "/apis/finetune.dev/v1alpha1/finetuneprofiles"
Spec = dict[str, Any]


def offer(plane: ControlPlane, name: str, *, default: bool = False, **spec: Any) -> None:
    metadata: Spec = {"name": name}
    if default:
        metadata["annotations"] = {DEFAULT_ANNOTATION: "true"}
    kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneProfile"}
    plane.post(PROFILES, {**kind, "metadata": metadata, "spec": spec})


def valid(plane: ControlPlane, name: str) -> Spec:
    """Return the condition Valid of the present generation, once it is there."""
    path = f"{PROFILES}/{name}"

    def is_current() -> bool:
        found = plane.get(path)
        return bool(found["status"]["observedGeneration"] == found["metadata"]["generation"])

    wait_until(f"{name} has been checked", is_current)
    return dict(condition_of(plane.get(path), "Valid"))


def frozen(place: Namespace, name: str = "demo") -> Spec:
    (revision,) = place.job(name)["status"]["revisions"]
    settings: Spec = json.loads(revision["frozen"]["operator"])
    return settings


def test_a_job_waits_for_its_profile_and_starts_when_it_exists(
    control_plane: ControlPlane, place: Namespace, operator: OperatorProcess
) -> None:
    place.submit(spec={"profile": "awaited"})
    wait_until("the job waits", lambda: place.reason() == "ProfileNotFound")
    assert place.items("jobs") == []
    price = {"perGpuHour": "1.20", "currency": "EUR"}
    defaults = {"training": {"sequenceLength": 2048}}
    offer(control_plane, "awaited", defaults=defaults, card="NVIDIA-L4", price=price)
    try:
        place.wait_until_preparing()
        assert valid(control_plane, "awaited")["status"] == "True"
        settings = frozen(place)
        assert settings["profile"] == {"name": "awaited", "card": "NVIDIA-L4", "price": price}
        assert settings["defaults"]["training"]["sequenceLength"] == 2048
        # An edit of the profile changes nothing of the revision.
        change = {"spec": {"defaults": {"training": {"sequenceLength": 4096}}}}
        control_plane.merge(f"{PROFILES}/awaited", change)
        assert valid(control_plane, "awaited")["observedGeneration"] == 2
        operator.settled()
        assert frozen(place) == settings
    finally:
        control_plane.delete(f"{PROFILES}/awaited")


def test_an_invalid_profile_is_reported_and_its_correction_starts_the_job(
    control_plane: ControlPlane, place: Namespace, operator: OperatorProcess
) -> None:
    offer(control_plane, "broken", defaults={"training": {"epoch": 3}})
    try:
        place.submit(spec={"profile": "broken"})
        wait_until("the job waits", lambda: place.reason() == "ProfileInvalid")
        found = valid(control_plane, "broken")
        assert (found["status"], found["reason"]) == ("False", "InvalidDefaults")
        assert found["message"].startswith("spec.defaults.training.epoch: unknown field")
        corrected = {"spec": {"defaults": {"training": {"epoch": None, "epochs": 3}}}}
        control_plane.merge(f"{PROFILES}/broken", corrected)
        place.wait_until_preparing()
        assert valid(control_plane, "broken")["status"] == "True"
    finally:
        control_plane.delete(f"{PROFILES}/broken")


def test_a_limit_that_is_widened_starts_the_job(
    control_plane: ControlPlane, place: Namespace, operator: OperatorProcess
) -> None:
    """Without admission, the operator alone holds the job."""
    offer(control_plane, "limited", limits={"maxSequenceLength": 100})
    try:
        place.submit(spec={"profile": "limited"})
        wait_until("the job is held", lambda: place.reason() == "NotAllowed")
        message = place.condition("Ready")["message"]
        assert "limits.maxSequenceLength of FineTuneProfile limited" in message
        control_plane.merge(
            f"{PROFILES}/limited", {"spec": {"limits": {"maxSequenceLength": 8192}}}
        )
        place.wait_until_preparing()
    finally:
        control_plane.delete(f"{PROFILES}/limited")


def test_the_default_profile_is_known_before_the_first_job(
    control_plane: ControlPlane, place: Namespace, tmp_path: Any
) -> None:
    """An operator that starts lists the profiles first, and follows the annotation."""
    offer(control_plane, "usual", default=True, defaults={"training": {"seed": 3}})
    try:
        place.submit()
        with operatorprocess.operator(control_plane, tmp_path) as running:
            place.wait_until_preparing()
            assert frozen(place)["profile"] == {"name": "usual", "byDefault": True}
            unset = {"metadata": {"annotations": {DEFAULT_ANNOTATION: None}}}
            control_plane.merge(f"{PROFILES}/usual", unset)
            running.settled()
            place.submit("second")
            place.wait_until_preparing("second")
            assert "profile" not in frozen(place, "second")
    finally:
        control_plane.delete(f"{PROFILES}/usual")


def test_the_list_of_profiles_reads_like_a_menu(
    control_plane: ControlPlane, operator: OperatorProcess
) -> None:
    offer(
        control_plane,
        "menu",
        default=True,
        description="Models up to 8 billion parameters",
        card="NVIDIA-L4",
        price={"perGpuHour": "0.80", "currency": "EUR"},
        limits={"maxSequenceLength": 4096},
    )
    try:
        valid(control_plane, "menu")
        done = kubectl(control_plane, "get", "ftp", "menu")
        head, line = done.stdout.splitlines()
        assert head.split() == [
            *("NAME", "DEFAULT", "CARD", "MAX-LENGTH", "GPU-HOUR", "CURRENCY", "VALID"),
            "DESCRIPTION",
        ]
        assert line.split(maxsplit=7) == [
            *("menu", "true", "NVIDIA-L4", "4096", "0.80", "EUR", "True"),
            "Models up to 8 billion parameters",
        ]
    finally:
        control_plane.delete(f"{PROFILES}/menu")
