"""A member of a team, with rights on FineTuneJobs and one profile only, and an endpoint that idles.

Here is what needs pods: the price that the real prepare pod finds before a GPU is requested, and an
endpoint that goes to zero and returns verified. tests/integration/test_self_service.py has limits,
budgets and approvals. One small job does all of it, and fills the dashboard with the costs.
test_self_service_walk.py, which `make test` leaves out, has everything with real pods.
"""

from collections.abc import Iterator
from decimal import Decimal

import pytest
from tests.e2e import self_service
from tests.e2e.authors import AUTHOR, admit, wait_for_right
from tests.e2e.prometheus import Prometheus, scraping
from tests.support.local_cluster.target import Cluster, namespaces
from tests.support.local_cluster.tuning import Tuning

NAMESPACE, PROFILE, BUDGET = "e2e-self-service", "e2e-small", "e2e-team"
MEMBERS = "e2e-self-service-members"


@pytest.fixture(scope="module")
def own(cluster: Cluster) -> Iterator[Tuning]:
    """The job of the member, three lines long."""
    # Enough for the job.
    training = {"gpuHours": 10, "cost": "3600.00"}
    with namespaces(cluster, NAMESPACE):
        admit(cluster, NAMESPACE, self_service.right_to_use(PROFILE))
        cluster.kubectl.apply(
            self_service.profile(PROFILE, gpu_seconds=1000),
            self_service.budget(BUDGET, NAMESPACE, period="Month", training=training),
            self_service.binding_of(MEMBERS, self_service.CATALOG, AUTHOR),
        )
        wait_for_right(cluster, NAMESPACE, AUTHOR, "list", "finetuneprofiles.finetune.dev")
        try:
            yield Tuning(cluster=cluster, namespace=NAMESPACE, name="support")
        finally:
            cluster.kubectl.delete("ftp", PROFILE)
            cluster.kubectl.delete("ftb", BUDGET)
            cluster.kubectl.delete("clusterrolebinding", MEMBERS)


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, own: Tuning) -> Iterator[Prometheus]:
    """It scrapes the operator, and the pods of the member's job."""
    with scraping(cluster, own.namespace) as running:
        yield running


@pytest.mark.usefixtures("prometheus")
def test_a_member_applies_three_lines_and_sees_the_price_before_the_gpu(own: Tuning) -> None:
    menu = self_service.run(own.cluster, AUTHOR, "get", "ftp")
    (line,) = (each for each in menu.splitlines() if PROFILE in each)
    assert self_service.PRICE in line
    self_service.apply(own, PROFILE)
    # 1000 s.
    self_service.wait_until_trained_at_a_known_price(own, most=Decimal(100))
    assert own.status()["profile"] == PROFILE


def test_the_endpoint_goes_to_zero_without_requests(own: Tuning) -> None:
    self_service.wait_until_idle(own)


def test_the_endpoint_returns_verified_when_the_member_wakes_it(own: Tuning) -> None:
    self_service.wake(own)


def test_every_panel_about_costs_has_data(prometheus: Prometheus, own: Tuning) -> None:
    choices = {"$namespace": own.namespace}
    assert prometheus.empty_panels("showback", choices) == []
