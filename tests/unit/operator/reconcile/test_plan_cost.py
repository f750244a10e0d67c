"""The cost of a training: expected, limited, reserved before its Job exists, and used."""

from dataclasses import replace
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing
from tests.support.reconcile.plan_steps import TRAINED, edit, run, running
from tests.unit.operator.reconcile.test_plan_profiles import PRICE, offer, ready

from finetune_api.v1alpha1.profile import Price
from finetune_operator.types import PodProgress
from finetune_operator.usage.values import NamespaceUsage, ReservationRequest, training_key

ESTIMATED = 3600


def cluster_of(*, price: bool = True, usage: bool = False, **policy: Any) -> Cluster:
    """Return a cluster with a job whose GPU costs 2.50 EUR per hour."""
    cluster = Cluster(usage=NamespaceUsage() if usage else None)
    spec: dict[str, Any] = {"price": PRICE} if price else {}
    offer(cluster, "small", **spec)
    cluster.edit(profile="small", runPolicy=policy)
    return cluster


def prepare(cluster: Cluster, seconds: int | None = ESTIMATED) -> None:
    """Run the stage prepare, which estimates the duration of training."""
    estimate = {} if seconds is None else {"trainingSeconds": seconds}
    run("prepare", text=controllers.message("prepare", artifacts=estimate))(cluster)
    cluster.settle()


def key_of(cluster: Cluster) -> str:
    return training_key(cluster.present_job()["metadata"]["uid"], cluster.status["revision"])


def train_jobs(cluster: Cluster) -> list[Thing]:
    return [
        each
        for each in cluster.list("Job")
        if each["metadata"]["labels"]["finetune.dev/stage"] == "train"
    ]


def test_status_has_the_range_of_hours_and_money_after_prepare_and_the_actual_cost_later() -> None:
    cluster = cluster_of()
    cluster.settle()
    assert "cost" not in cluster.status or "expectedCost" not in cluster.status["cost"]
    prepare(cluster)
    found = cluster.status["cost"]
    assert (found["pricePerGpuHour"], found["currency"]) == ("2.50", "EUR")
    assert found["expectedGpuHours"] == {"low": "0.50", "high": "2.25"}
    assert found["expectedCost"] == {"low": "1.25", "high": "5.62"}
    assert found["summary"] == "1.25-5.62 EUR"
    cluster.progress = PodProgress(pod="", global_step=3, max_steps=9, gpu_seconds=1800.0)
    running("train")(cluster)
    cluster.wait(3600)
    cluster.settle()
    found = cluster.status["cost"]
    assert (found["gpuHours"], found["cost"]) == ("0.50", "1.25")
    assert found["summary"] == "1.25 EUR (1.25-5.62)"


def test_what_stages_read_has_no_price_that_a_model_card_could_publish() -> None:
    cluster = cluster_of()
    prepare(cluster)
    (configuration,) = cluster.list("ConfigMap")
    assert "EUR" in configuration["data"]["operator.json"]
    read = configuration["data"]["job.json"], *map(str, cluster.list("Job"))
    assert [text for text in read if "EUR" in text or "perGpuHour" in text] == []


def test_the_limit_of_gpu_time_limits_the_expected_cost() -> None:
    cluster = cluster_of(maxGpuSeconds=1800)
    prepare(cluster)
    assert cluster.status["cost"]["expectedCost"] == {"low": "1.25", "high": "1.25"}


def test_without_price_and_records_of_usage_the_status_has_no_cost() -> None:
    cluster = cluster_of(price=False)
    prepare(cluster)
    assert "cost" not in cluster.status


def test_records_of_usage_show_gpu_hours_also_without_a_price() -> None:
    cluster = cluster_of(price=False, usage=True)
    prepare(cluster)
    assert cluster.usage is not None
    cluster.usage = replace(cluster.usage, trained={key_of(cluster): 5400})
    cluster.settle()
    assert cluster.status["cost"] == {
        "expectedGpuHours": {"low": "0.50", "high": "2.25"},
        "gpuHours": "1.50",
    }


def test_a_training_that_may_cost_too_much_is_rejected_before_a_gpu_is_requested() -> None:
    cluster = cluster_of(maxCost="3.00", usage=True)
    prepare(cluster)
    condition = ready(cluster)
    assert condition["reason"] == "TooExpensive"
    assert condition["message"] == (
        "Training is expected to cost 1.25 to 5.62 EUR (0.50 to 2.25 GPU-hours at 2.50 EUR), but "
        "spec.runPolicy.maxCost is 3.00. No GPU was requested. Raise spec.runPolicy.maxCost, set "
        "spec.runPolicy.maxGpuSeconds to at most 4320, or set spec.profile to a cheaper one."
    )
    assert not train_jobs(cluster)
    assert cluster.usage == NamespaceUsage()


@pytest.mark.parametrize("change", [{"maxCost": "5.62"}, {"maxGpuSeconds": 4320}])
def test_the_remediations_of_the_message_start_the_training(change: Thing) -> None:
    cluster = cluster_of(maxCost="3.00")
    prepare(cluster)
    assert ready(cluster)["reason"] == "TooExpensive"
    edit(runPolicy=change)(cluster)
    assert ready(cluster)["reason"] == "Training"
    assert len(train_jobs(cluster)) == 1


@pytest.mark.parametrize(
    ("policy", "limit"),
    [
        ({"maxCost": "6.00"}, 8640),
        ({"maxCost": "6.00", "maxGpuSeconds": 7000}, 7000),
        ({"maxGpuSeconds": 7000}, 7000),
        ({}, None),
    ],
)
def test_training_is_stopped_when_it_has_cost_the_maximum(policy: Thing, limit: int | None) -> None:
    cluster = cluster_of(**policy)
    prepare(cluster)
    (job,) = train_jobs(cluster)
    assert controllers.request_of(job).max_gpu_seconds == limit


def test_without_an_estimate_the_maximum_cost_limits_the_training() -> None:
    cluster = cluster_of(maxCost="2.50", usage=True)
    prepare(cluster, None)
    assert ready(cluster)["reason"] == "Training"
    assert cluster.usage is not None
    assert cluster.usage.reservations[key_of(cluster)].cap == 3600


def test_a_maximum_cost_without_a_price_is_rejected_before_prepare() -> None:
    cluster = cluster_of(price=False, maxCost="3.00")
    condition = ready(cluster)
    assert condition["reason"] == "PriceUnknown"
    assert "spec.runPolicy.maxCost is 3.00" in condition["message"]
    assert not cluster.list("Job")
    offer(cluster, "small", price=PRICE)
    assert ready(cluster)["reason"] == "Preparing"


def test_a_maximum_cost_that_is_set_later_leaves_a_trained_revision_alone() -> None:
    cluster = cluster_of(price=False)
    controllers.run_all(cluster)
    edit(runPolicy={"maxCost": "1.00"})(cluster)
    assert ready(cluster)["reason"] == "Serving"


def test_the_gpu_time_is_reserved_before_the_train_job_is_created(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = cluster_of(usage=True)
    requests: list[ReservationRequest] = []

    def record(request: ReservationRequest) -> bool:
        assert not train_jobs(cluster)
        requests.append(request)
        return Cluster.reserve(cluster, request)

    monkeypatch.setattr(cluster, "reserve", record)
    prepare(cluster)
    assert len(train_jobs(cluster)) == 1
    (request,) = requests
    assert (request.key, request.namespace, request.job) == (key_of(cluster), "ns", "demo")
    assert (request.cap, request.price) == (8100, Price(per_gpu_hour="2.50", currency="EUR"))
    TRAINED(cluster)
    cluster.settle()
    assert len(requests) == 1


def test_no_train_job_is_created_while_the_reservation_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = cluster_of(usage=True)
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "reserve", lambda request: False)
        prepare(cluster)
        assert ready(cluster)["reason"] == "Reserving"
        assert not train_jobs(cluster)
    assert ready(cluster)["reason"] == "Training"


def test_a_training_that_is_under_way_when_usage_is_first_recorded_is_reserved_too() -> None:
    cluster = cluster_of()
    prepare(cluster)
    running("train")(cluster)
    cluster.usage = NamespaceUsage()
    cluster.settle()
    assert cluster.usage.reservations.keys() == {key_of(cluster)}
    assert ready(cluster)["reason"] == "Training"


def test_an_edited_limit_leaves_the_reservation_of_a_running_training() -> None:
    """Its Job keeps the limit with which it was created."""
    cluster = cluster_of(usage=True, maxGpuSeconds=5000)
    prepare(cluster)
    running("train")(cluster)
    edit(runPolicy={"maxGpuSeconds": 9000})(cluster)
    cluster.settle()
    assert cluster.usage is not None
    assert cluster.usage.reservations[key_of(cluster)].cap == 5000


def test_a_job_without_a_maximum_cost_has_the_hashes_of_before() -> None:
    plain, limited = cluster_of(), cluster_of(maxCost="100")
    for cluster in (plain, limited):
        cluster.settle()
    assert plain.status["revision"] == limited.status["revision"]
    assert plain.status["build"] == limited.status["build"]
