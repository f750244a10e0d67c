"""Sending the results of a training to an MLflow server: the run, repeated attempts, refusals."""

import json
from typing import Any

import pytest
from tests.fakes.tracking_server import TrackingServer, basic
from tests.support.trainer import publishing
from tests.support.trainer.publishing import TEXT_OF_A_ROW, Published, Volume, run
from tests.support.trainer.web import Certificate

from finetune_trainer.errors import PublishFailed, Stopped, Transient
from finetune_trainer.publishing.mlflow import api as mlflow_api
from finetune_trainer.publishing.mlflow import tracking
from finetune_trainer.runtime.signals import StopRequest

STARTED = 1_700_000_000_000
KEY = "uid-of-job/36244a02"


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_api, "PAUSES", (0.0, 0.0))


@pytest.fixture
def target(volume: Volume, tracker: TrackingServer, certificate: Certificate) -> dict[str, Any]:
    place = {
        "uri": tracker.url,
        "experiment": "ns/demo",
        "run": KEY,
        "started": STARTED,
        "tags": {"finetune.dev/job": "ns/demo", "finetune.dev/published.hub": "hf://acme/a@1"},
        "ca": str(certificate.authority),
    }
    return volume.target("adapter", name="mlflow", mlflow=place)


def publish(volume: Volume, target: dict[str, Any], **environment: str) -> Published:
    return run(volume, target, environment=environment)


def registered(target: dict[str, Any], source: str = "oci://r.example.com/a@sha256:1") -> None:
    target["mlflow"] |= {"registered_model": "support's", "source": source}


def test_run_has_parameters_history_and_links(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any]
) -> None:
    done = publish(volume, target)
    assert done.error is None, done.failure
    assert done.only.reference == tracker.url
    assert tracker.experiments == {"ns/demo": "1"}
    (made,) = tracker.runs
    assert (made.name, made.status) == ("tiny-1-adapter", "FINISHED")
    assert (made.start_time, made.end_time) == (STARTED, STARTED + 90_500)
    assert made.params["training.lora.r"] == str(volume.job.training.lora.r)
    assert made.params["source"] == "hf://demo/tiny"
    assert made.params["dataset.dataset"] == "hf://demo/rows"
    assert made.points("loss") == publishing.HISTORY["loss"]
    assert made.points("evalLoss") == publishing.HISTORY["evalLoss"]
    assert made.tags["finetune.dev/adapter"] == volume.adapter
    assert made.tags["finetune.dev/published.hub"] == "hf://acme/a@1"
    assert TEXT_OF_A_ROW not in json.dumps([made.params, made.tags])
    assert not tracker.models
    assert len(tracker.requests) <= 10


def test_second_attempt_adds_nothing(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any]
) -> None:
    registered(target)
    first = publish(volume, target)
    (made,) = tracker.runs
    before = (dict(made.params), dict(made.tags), list(made.metrics), list(tracker.versions))
    count = len(tracker.requests)
    assert publish(volume, target).only.digest == first.only.digest
    assert (made.params, made.tags, made.metrics, tracker.versions) == before
    assert "POST runs/log-batch" not in tracker.requests[count:]
    assert len(tracker.runs) == 1


class Killed(BaseException):
    """The process ends."""


def ends_within(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any], requests: int
) -> bool:
    """Publish, and kill the process after so many requests. Report whether it ended before."""
    first, original = len(tracker.requests), mlflow_api.Server._answer

    def answer(*arguments: Any) -> Any:
        # The server has done it, and the process ends before it knows.
        if len(tracker.requests) - first >= requests:
            raise Killed
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mlflow_api.Server, "_answer", answer)
        try:
            assert publish(volume, target).error is None
        except Killed:
            return False
    return True


def test_killed_at_every_request(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any]
) -> None:
    """An attempt that ends anywhere leaves nothing that the next one repeats."""
    registered(target)
    ended = 1
    while not ends_within(volume, tracker, target, ended):
        ended += 1
    assert ended > 6
    (made,) = tracker.runs
    assert made.points("loss") == publishing.HISTORY["loss"]
    assert made.status == "FINISHED"
    assert len(tracker.versions) == 1


@pytest.mark.parametrize("path", ["runs/create", "model-versions/create"])
def test_lost_answer_makes_nothing_twice(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any], path: str
) -> None:
    """A server that has made a run or a version is searched before the request is repeated."""
    registered(target)
    tracker.lost = [path]
    assert publish(volume, target).error is None
    assert (len(tracker.runs), len(tracker.versions)) == (1, 1)
    assert tracker.runs[0].status == "FINISHED"
    assert not tracker.lost


@pytest.mark.parametrize("path", ["runs/create", "model-versions/create"])
def test_creation_that_fails_for_a_while_is_repeated(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any], path: str
) -> None:
    registered(target)
    tracker.answers = [(path, 503, "busy"), (path, 503, "busy")]
    assert publish(volume, target).error is None
    assert (len(tracker.runs), len(tracker.versions)) == (1, 1)


def test_version_of_the_published_model(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any]
) -> None:
    registered(target)
    assert publish(volume, target).error is None
    registered(target, "oci://r.example.com/a@sha256:2")
    target["mlflow"]["tags"]["finetune.dev/published.hub"] = "hf://acme/a@2"
    assert publish(volume, target).error is None
    assert tracker.models == {"support's"}
    assert [(each["version"], each["source"]) for each in tracker.versions] == [
        ("1", "oci://r.example.com/a@sha256:1"),
        ("2", "oci://r.example.com/a@sha256:2"),
    ]
    (made,) = tracker.runs
    assert {each["run_id"] for each in tracker.versions} == {made.id}
    assert made.tags["finetune.dev/published.hub"] == "hf://acme/a@2"


def test_experiment_that_another_client_creates_meanwhile(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any]
) -> None:
    def create(path: str) -> None:
        if path == "experiments/create":
            tracker.experiments.setdefault("ns/demo", "7")

    tracker.on_request = create
    assert publish(volume, target).error is None
    assert tracker.runs[0].experiment == "7"


def test_deleted_experiment_is_named(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any]
) -> None:
    tracker.experiments, tracker.deleted = {"ns/demo": "1"}, {"ns/demo"}
    reason, message = publish(volume, target).failure
    assert reason == "TargetConflict"
    assert "tracking.mlflow.experiment" in message


def test_long_history_is_sent_in_batches(
    tmp_path: Any, tracker: TrackingServer, target: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [(step, 1.0 / step) for step in range(1, 2501)]
    monkeypatch.setitem(publishing.HISTORY, "loss", points)
    long = publishing.volume(tmp_path)
    target["content"] = long.adapter
    assert publish(long, target).error is None
    assert publish(long, target).error is None
    assert tracker.runs[0].points("loss") == points


def test_changed_history_is_not_sent(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any]
) -> None:
    (volume.layout.adapter / "loss_history.json").write_text('{"loss":[[1,9.0]]}'.ljust(10))
    assert publish(volume, target).failure[0] == "ResumeRefused"
    assert publish(volume, target | {"content": "0" * 64}).failure[0] == "ResumeRefused"
    assert not tracker.requests


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PUBLISH_MLFLOW_MLFLOW_TRACKING_TOKEN": "a-secret-token"}, "Bearer a-secret-token"),
        (
            {
                "PUBLISH_MLFLOW_MLFLOW_TRACKING_USERNAME": "robot",
                "PUBLISH_MLFLOW_MLFLOW_TRACKING_PASSWORD": "horse-battery",
            },
            basic("robot", "horse-battery"),
        ),
    ],
)
def test_credentials(
    volume: Volume,
    tracker: TrackingServer,
    target: dict[str, Any],
    environment: dict[str, str],
    expected: str,
) -> None:
    tracker.authorization = expected
    assert publish(volume, target, **environment).error is None
    reason, message = publish(volume, target).failure
    assert reason == "AccessDenied"
    assert "tracking.mlflow.secretRef" in message
    wrong = dict.fromkeys(environment, "wrong-secret")
    assert "wrong-secret" not in publish(volume, target, **wrong).failure[1]


@pytest.mark.parametrize(
    ("path", "status", "text", "reason", "said"),
    [
        ("runs/create", 403, "Permission denied", "AccessDenied", "tracking.mlflow.secretRef"),
        ("get-by-name", 404, "<html>", "TargetRejected", "tracking.mlflow.uri"),
        ("get-by-name", 200, "<html>", "TargetRejected", "tracking.mlflow.uri"),
        ("get-by-name", 200, "{}", "TargetRejected", "tracking.mlflow.uri"),
        ("get-by-name", 302, "", "TargetRejected", "tracking.mlflow.uri"),
        (
            "log-batch",
            400,
            '{"error_code": "INVALID_PARAMETER_VALUE"}',
            "TargetRejected",
            "INVALID",
        ),
        ("log-batch", 507, "Insufficient Storage", "TargetRejected", "has no space left"),
        ("log-batch", 413, "quota exceeded", "TargetRejected", "has no space left"),
        ("runs/search", 429, "slow down", "Transient", "next attempt"),
        ("runs/search", 500, "down", "Transient", "next attempt"),
    ],
)
def test_refusals_are_named(
    volume: Volume,
    tracker: TrackingServer,
    target: dict[str, Any],
    path: str,
    status: int,
    text: str,
    reason: str,
    said: str,
) -> None:
    tracker.answers = [(path, status, text)] * 10
    done = publish(volume, target)
    found, message = done.failure
    assert found == reason, message
    assert said in message
    assert isinstance(done.error, Transient if reason == "Transient" else PublishFailed)
    tracker.answers = []
    assert publish(volume, target).error is None


def test_endless_history_is_refused(
    volume: Volume,
    tracker: TrackingServer,
    target: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert publish(volume, target).error is None
    monkeypatch.setattr(tracking, "MOST_PAGES", 5, raising=False)
    page = '{"metrics": [], "next_page_token": "%s"}'
    tracker.answers = [("metrics/get-history", 200, page % token) for token in range(20)]
    reason, message = publish(volume, target).failure
    assert (reason, len(tracker.answers)) == ("TargetRejected", 15)
    assert "tracking.mlflow.uri" in message


@pytest.mark.parametrize("step", ['"first"', "1e999"])
def test_history_without_valid_steps_is_refused(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any], step: str
) -> None:
    assert publish(volume, target).error is None
    history = f'{{"metrics": [{{"step": {step}}}]}}'
    tracker.answers = [("metrics/get-history", 200, history)]
    reason, message = publish(volume, target).failure
    assert reason == "TargetRejected"
    assert "tracking.mlflow.uri" in message


def test_answer_that_cannot_be_decoded_is_refused(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any]
) -> None:
    tracker.headers = {"Content-Encoding": "gzip"}
    reason, message = publish(volume, target).failure
    assert reason == "TargetRejected"
    assert "tracking.mlflow.uri" in message


def test_stop_is_noticed_before_each_request(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopRequest()
    monkeypatch.setattr(publishing, "StopRequest", lambda: stop)

    def request(path: str) -> None:
        if path == "runs/create":
            stop.request()

    tracker.on_request = request
    with pytest.raises(Stopped):
        publish(volume, target)
    assert tracker.requests[-1] == "POST runs/create"


def test_error_that_passes_is_retried(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any]
) -> None:
    tracker.answers = [("log-batch", 503, "busy"), ("runs/update", 500, "busy")]
    assert publish(volume, target).error is None


def test_untrusted_certificate_is_named(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any]
) -> None:
    target["mlflow"]["ca"] = None
    reason, message = publish(volume, target).failure
    assert reason == "InvalidSpec"
    assert "tracking.mlflow.caConfigMapRef" in message


def test_unreachable_server_is_transient(
    volume: Volume, tracker: TrackingServer, target: dict[str, Any], unused_port: int
) -> None:
    target["mlflow"]["uri"] = f"https://127.0.0.1:{unused_port}"
    assert publish(volume, target).failure[0] == "Transient"
