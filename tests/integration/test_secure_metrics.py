"""``/metrics`` with reviews by a real API server, on the leader and on a standby."""

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.limited_user import token_of
from tests.support.api_server.operatorprocess import CONFIG, OperatorProcess, operator
from tests.support.helm import render

SECURE = {**CONFIG, "metrics": {"secure": True}, "leaseName": "secure-metrics"}
UNVERIFIED = ssl._create_unverified_context()


def scrape(operator: OperatorProcess, token: str | None = None) -> tuple[int, str]:
    """Return status and text of the metrics."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"https://127.0.0.1:{operator.metrics_port}/metrics"
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60, context=UNVERIFIED) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def replicas(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[OperatorProcess]]:
    folder = tmp_path_factory.mktemp("replicas")
    with ExitStack() as stack:
        yield [
            stack.enter_context(operator(control_plane, folder, SECURE, pod=pod))
            for pod in ("first", "second")
        ]


def allow(plane: ControlPlane, namespace: str, account: str) -> None:
    """Bind a role with the rules of the chart's reader role to an account."""
    reader = render().one("ClusterRole", "finetune-operator-metrics")
    group = "rbac.authorization.k8s.io"
    name = f"{namespace}-{account}"
    path = f"/apis/{group}/v1/cluster"
    plane.post(f"{path}roles", {"metadata": {"name": name}, "rules": reader["rules"]})
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    role = {"apiGroup": group, "kind": "ClusterRole", "name": name}
    binding = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
    plane.post(f"{path}rolebindings", binding)


def test_only_bound_accounts_read_metrics_of_leader_and_standby(
    control_plane: ControlPlane, replicas: list[OperatorProcess], namespace: str
) -> None:
    tenant = token_of(control_plane, namespace, "tenant")
    scraper = token_of(control_plane, namespace, "prometheus")
    allow(control_plane, namespace, "prometheus")

    def both_read() -> bool:
        # The RBAC authorizer of the API server reads bindings from a cache.
        return [scrape(each, scraper)[0] for each in replicas] == [200, 200]

    wait_until("the scraper reads both replicas", both_read)

    def leaders() -> list[bool]:
        return [
            "leader_election_master_status" in line and line.endswith(" 1.0")
            for each in replicas
            for line in scrape(each, scraper)[1].splitlines()
        ]

    # A replica is ready before it is the leader.
    wait_until("a replica is the leader", lambda: any(leaders()))
    assert leaders().count(True) == 1
    for each in replicas:
        assert scrape(each)[0] == 401
        assert scrape(each, "forged")[0] == 401
        status, text = scrape(each, tenant)
        assert (status, "# HELP" in text) == (403, False)
        assert each.get("/healthz") == (200, "ok")
