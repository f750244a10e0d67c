"""Failures of the API server that a running operator must survive without a restart.

``test_api_failures`` covers failures of single requests and an outage.
"""

import base64
import copy
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.integration.relay import PASS, Call, Outcome, Relay, answer, relay
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import (
    CRD,
    PATIENCE_SECONDS,
    ApiError,
    ControlPlane,
    install_crd,
    wait_until,
)
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess
from tests.support.busy_machine import fastest

from finetune_operator import delays

CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/finetunejobs.finetune.dev"
REMEDIATION = "To install the CRD, run: kubectl apply"
SILENT_SECONDS = 3
SILENT = (
    "from finetune_operator.kube import kopf_settings; "
    f"kopf_settings.WATCH_TIMEOUT_SECONDS = {SILENT_SECONDS}.0; "
    f"from finetune_operator.kube import client; client.SILENCE_SECONDS = {SILENT_SECONDS}.0"
)


@pytest.fixture
def between(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Relay]:
    with relay(control_plane, tmp_path) as running:
        yield running


def test_a_silent_watch_is_restarted(
    control_plane: ControlPlane, between: Relay, place: Namespace, tmp_path: Path
) -> None:
    """The connection stays open, as after a firewall dropped its state."""
    with operatorprocess.operator(
        control_plane, tmp_path, kubeconfig=between.kubeconfig, prelude=SILENT
    ) as operator:
        place.submit("before")
        place.wait_until_preparing("before")
        operator.settled()
        between.silence(True)
        place.submit("unreported")
        asked = len(_watches(between))
        wait_until("the watch of jobs is restarted", lambda: len(_watches(between)) > asked)
        between.silence(False)
        began = time.monotonic()
        place.wait_until_preparing("unreported")
        # A job that no watch reports is found by the next resync.
        assert time.monotonic() - began < delays.RESYNC / 10
        wait_until("the operator is ready", operator.ready)


def _watches(between: Relay) -> list[Call]:
    return [call for call in between.calls if call.watches and "finetunejobs" in call.path]


def test_an_expired_token_is_replaced(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    """The token file is updated some seconds after the token expired, as in a pod."""
    account = Account(control_plane, place.name)
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    kubeconfig = yaml.safe_load(control_plane.kubeconfig.read_text())
    cluster = kubeconfig["clusters"][0]["cluster"]
    authority.write_text(base64.b64decode(cluster["certificate-authority-data"]).decode())
    first = account.token("first")
    token.write_text(first)
    host, port = control_plane.server.removeprefix("https://").split(":")
    prelude = (
        "from kubernetes.aio.config import incluster_config as pod\n"
        f"pod.SERVICE_TOKEN_FILENAME, pod.SERVICE_CERT_FILENAME = {str(token)!r}, "
        f"{str(authority)!r}\n{SILENT}"
    )
    variables = {
        "KUBECONFIG": "",
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": port,
    }
    with operatorprocess.operator(
        control_plane, tmp_path, prelude=prelude, environment=variables
    ) as operator:
        place.submit("before")
        place.wait_until_preparing("before")
        second = account.token("second")
        account.revoke("first")
        wait_until("the first token is rejected", lambda: not account.is_valid(first))
        refused = {"code": "401"}
        wait_until(
            "the operator is rejected",
            lambda: operator.metric("rest_client_requests_total", **refused) > 3,
        )
        place.submit("meanwhile")
        token.write_text(second)
        place.wait_until_preparing("meanwhile")
        place.submit("after")
        place.wait_until_preparing("after")
        wait_until("the operator is ready", operator.ready)


class Account:
    """A service account with all permissions; a token is valid while its Secret exists."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane, self._core = plane, f"/api/v1/namespaces/{namespace}"
        plane.post(f"{self._core}/serviceaccounts", {"metadata": {"name": "operator"}})
        subject = {"kind": "ServiceAccount", "name": "operator", "namespace": namespace}
        plane.post(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            {
                "metadata": {"name": f"operator-{namespace}"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "cluster-admin",
                },
                "subjects": [subject],
            },
        )

    def token(self, name: str) -> str:
        secret = self._plane.post(f"{self._core}/secrets", {"metadata": {"name": name}})
        bound = {"apiVersion": "v1", "kind": "Secret", "name": name}
        asked = {"boundObjectRef": {**bound, "uid": secret["metadata"]["uid"]}}
        made = self._plane.post(f"{self._core}/serviceaccounts/operator/token", {"spec": asked})
        return str(made["status"]["token"])

    def revoke(self, name: str) -> None:
        self._plane.delete(f"{self._core}/secrets/{name}")

    def is_valid(self, token: str) -> bool:
        try:
            self._plane.request("GET", self._core, headers={"Authorization": f"Bearer {token}"})
        except ApiError as error:
            if error.status != 401:
                raise
            return False
        return True


def test_a_crd_is_deleted_and_created_again(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    """A watch needs a CRD that exists at the start: the process ends, and the next one waits."""
    restored = False
    with operatorprocess.operator(control_plane, tmp_path) as first:
        place.submit("before")
        place.wait_until_preparing("before")
        try:
            control_plane.delete(CRD_PATH)
            assert first.process.wait(PATIENCE_SECONDS) == 1
            assert "404" in first.log.read_text().splitlines()[-1]
            with operatorprocess.starting(control_plane, tmp_path) as second:
                wait_until(
                    "the log contains the remediation",
                    lambda: second.log.exists() and REMEDIATION in second.log.read_text(),
                )
                assert second.get("/readyz")[0] == 503
                assert second.get("/healthz") == (200, "ok")
                wait_until("the CRD can be created again", lambda: _is_gone(control_plane))
                install_crd(control_plane)
                restored = True
                wait_until("the operator is ready again", second.ready)
                place.submit("after")
                place.wait_until_preparing("after")
                second.settled()
                assert second.metric("finetune_jobs") == 1
        finally:
            if not restored:
                wait_until("the CRD can be created again", lambda: _is_gone(control_plane))
                install_crd(control_plane)


def _is_gone(plane: ControlPlane) -> bool:
    try:
        plane.get(CRD_PATH)
    except ApiError as error:
        return error.status == 404
    return False


def test_a_status_of_a_megabyte_is_corrected(operator: OperatorProcess, place: Namespace) -> None:
    place.submit()
    place.wait_until_preparing()
    place.wait_until_running()
    operator.settled()
    path = place.path("finetunejobs", "demo")
    status = place.job()["status"]
    (own,) = status["revisions"]
    strange = [{**own, "revision": f"{number:08x}"} for number in range(150)]
    long = [{**each, "message": "x" * 70_000} for each in status["conditions"]]
    place.plane.merge(
        f"{path}/status", {"status": {"revisions": [*strange, own], "conditions": long}}
    )
    assert len(str(place.job()["status"])) > 1_000_000
    place.plane.merge(path, {"metadata": {"labels": {"a": "b"}}})
    wait_until("the status is corrected", lambda: len(str(place.job()["status"])) < 10_000)
    found = place.job()["status"]
    # Other revisions are kept up to the history limit.
    assert own in found.pop("revisions")
    assert found == {key: value for key, value in status.items() if key != "revisions"}
    assert len(place.items("jobs")) == 1
    assert operator.failures() == []


@pytest.fixture
def newer_crd(control_plane: ControlPlane) -> Iterator[None]:
    """The CRD of a newer version, with one more field in spec and status."""
    crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    newer = copy.deepcopy(crd)
    (version,) = newer["spec"]["versions"]
    groups = version["schema"]["openAPIV3Schema"]["properties"]
    groups["spec"]["properties"]["training"]["properties"]["newField"] = {"type": "string"}
    groups["status"]["properties"]["newField"] = {"type": "string"}
    control_plane.apply(CRD_PATH, newer)
    yield
    install_crd(control_plane)


def test_fields_of_a_newer_operator_are_not_changed(
    operator: OperatorProcess, place: Namespace, newer_crd: None
) -> None:
    def is_used() -> bool:
        """Report whether the API server stores the field, and sends it to the operator.

        A watch that began before the change delivers objects without the field until it ends.
        """
        place.submit("probe", suspend=True, spec={"training": {"newField": "x"}})
        operator.settled()
        found = place.reason("probe")
        place.plane.delete(place.path("finetunejobs", "probe"))
        return found == "InvalidSpec"

    wait_until("the newer CRD is used", is_used)
    place.submit("running")
    place.wait_until_preparing("running")
    operator.settled()
    failures = operator.failures()
    jobs = place.items("jobs")
    path = place.path("finetunejobs", "running")
    place.plane.merge(f"{path}/status", {"status": {"newField": "y"}})
    place.plane.merge(path, {"spec": {"training": {"newField": "x"}}})
    place.submit("new", spec={"training": {"newField": "x"}})
    for name in ("running", "new"):
        wait_until(
            f"{name} is rejected",
            lambda name=name: place.reason(name) == "InvalidSpec",  # type: ignore[misc]
        )
        assert "newField: unknown field; remove it" in place.condition("Ready", name)["message"]
    assert place.items("jobs") == jobs
    place.plane.merge(path, {"spec": {"training": None}})
    wait_until("the job continues", lambda: place.reason("running") == "Preparing")
    assert place.items("jobs") == jobs
    assert operator.failures() == failures


def test_a_failing_job_does_not_slow_other_jobs(
    control_plane: ControlPlane,
    between: Relay,
    place: Namespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Start ten jobs alone, then next to a job whose requests fail or hang, then alone again.

    The slower one of the two measurements without the failing job is the reference, because the
    load of the machine changes.
    """
    bad = Namespace(control_plane, control_plane.namespace(f"{place.name}-bad"))
    numbers = itertools.count()

    def decide(call: Call) -> Outcome:
        if call.namespace != bad.name or call.watches:
            return PASS
        # Creations of Jobs hang until the timeout of the client; other requests fail.
        return Outcome(what="hold") if call.path.endswith("/jobs") else answer(500)

    def start_ten() -> list[float]:
        return [_seconds_until_preparing(place, f"job-{next(numbers)}") for _ in range(10)]

    def too_slow() -> float:
        """Return by how many seconds jobs next to the failing one exceed their limits."""
        alone = start_ten()
        between.decide = decide
        bad.submit("bad")
        wait_until(
            "the failing job is reconciled",
            lambda: operator.metric("controller_runtime_active_workers") > 0,
        )
        next_to_bad = start_ten()
        between.release()
        place.plane.delete(bad.path("finetunejobs", "bad"))
        again = start_ten()
        usual = max(statistics.median(alone), statistics.median(again))
        with capsys.disabled():
            sys.stdout.write(
                f"\n    until prepare has started, median: {usual:.2f} s, next to a job that "
                f"always fails: {statistics.median(next_to_bad):.2f} s\n"
            )
        return max(
            statistics.median(next_to_bad) - 2 * usual - 0.1,
            max(next_to_bad) - 2 * max(*alone, *again) - 0.5,
        )

    with operatorprocess.operator(
        control_plane, tmp_path, kubeconfig=between.kubeconfig
    ) as operator:
        assert fastest(too_slow, limit=0.0, attempts=3) < 0


def _seconds_until_preparing(place: Namespace, name: str) -> float:
    began = time.monotonic()
    place.submit(name)
    place.wait_until_preparing(name)
    return time.monotonic() - began
