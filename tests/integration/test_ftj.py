"""The verbs of ``ftj`` on jobs, against a real API server: what they print, and what they cause."""

import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fakes import kubelet, kubelet_server
from tests.integration.test_operator_with_controllers import run_stages
from tests.support.api_server import limited_user
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess

from finetune_cli import __main__ as ftj
from finetune_cli.jobs import curve, watch
from finetune_cli.jobs.changing import change as changes
from finetune_cli.jobs.changing import rollback

pytestmark = pytest.mark.usefixtures("controller_manager")

PROFILES = "/apis/finetune.dev/v1alpha1/finetuneprofiles"
Run = Callable[..., tuple[int, str, str]]
NAMED = (
    *("status", "why", "logs", "chat", "watch", "curve", "cost"),
    *("pause", "resume", "retry", "rerun", "wake"),
)


@pytest.fixture
def run(place: Namespace, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a verb in the namespace as the administrator; return exit code, stdout and stderr."""

    def run(*arguments: str, kubeconfig: Path | None = None) -> tuple[int, str, str]:
        where = ["--kubeconfig", str(kubeconfig or place.plane.kubeconfig)]
        own = [] if arguments[0] == "init" else ["-n", place.name]
        code = ftj.main([*arguments, *where, *own])
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err
        return code, said.out, said.err

    return run


def fails(stage: str) -> dict[str, Any]:
    return kubelet.failed(
        stage, code=65, reason="DatasetInvalid", message="row 7 is \x1b[31mempty [bold]"
    )


def attempts(place: Namespace, stage: str) -> list[str]:
    labels = [each["metadata"]["labels"] for each in place.items("jobs")]
    found = [each for each in labels if each["finetune.dev/stage"] == stage]
    return sorted(each["finetune.dev/attempt"] for each in found)


def test_a_failure_is_shown_explained_and_retried(
    operator: OperatorProcess, place: Namespace, run: Run
) -> None:
    place.submit()
    run_stages(place, "DatasetInvalid", fails)
    operator.settled()

    code, text, _ = run("status", "demo")
    assert code == 0
    assert "FineTuneJob demo" in text
    assert "DatasetInvalid" in text
    assert "row 7 is" in text
    assert "[bold]" in text, "values are not taken for markup"
    stage = next(line.split() for line in text.splitlines() if line.startswith("  prepare"))
    assert stage[1:3] == ["Failed", "1"]
    assert text.endswith("To read cause and remedy, run: ftj why demo\n")

    code, text, _ = run("why", "demo")
    assert code == 0
    for words in (
        "is not ready: DatasetInvalid",
        "A row or file of a dataset cannot be used.",
        "Remedy",
        "prepare, attempt 1: Failed (DatasetInvalid)",
        "trainer: terminated with exit code 65",
    ):
        assert words in text
    facts = json.loads(run("why", "demo", "-o", "json")[1])
    assert facts["evidence"]["containers"][0]["exit_code"] == 65

    known = [each["metadata"]["uid"] for each in place.items("pods")]
    code, text, _ = run("retry", "demo")
    assert code == 0
    assert "retries the stage prepare" in text
    assert place.job()["spec"]["runPolicy"] == {"maxRestarts": 21}
    run_stages(place, "Serving", known=known)
    assert attempts(place, "prepare") == ["1", "2"]

    code, text, err = run("retry", "demo")
    assert (code, text) == (1, "")
    assert err.startswith("ftj retry: no stage of FineTuneJob demo has failed: ")
    facts = json.loads(run("status", "demo", "-o", "json")[1])
    assert facts["endpoint"] == f"http://demo-serve.{place.name}.svc:8000/v1"
    assert [each["outcome"] for each in facts["stages"]][:3] == ["Completed"] * 3
    assert all(each["seconds"] is not None for each in facts["stages"][:3])
    code, text, _ = run("status")
    assert text.splitlines()[0].split()[:3] == ["NAME", "READY", "STATE"]
    assert text.splitlines()[1].split()[:3] == ["demo", "True", "Serving"]


def test_pause_resume_and_rerun(operator: OperatorProcess, place: Namespace, run: Run) -> None:
    place.submit()
    place.wait_until_preparing()
    assert run("pause", "demo")[0] == 0
    wait_until("the job is suspended", lambda: place.reason() == "SuspendedByUser")
    assert "already paused" in run("pause", "demo")[1]
    assert run("resume", "demo")[0] == 0
    run_stages(place, "Serving")
    assert "not paused" in run("resume", "demo")[1]
    before = place.job()["status"]["revision"]
    assert run("rerun", "demo")[0] == 0
    wait_until("a revision starts", lambda: place.job()["status"]["revision"] != before)


def test_a_change_that_git_does_not_have_is_announced(place: Namespace, run: Run) -> None:
    place.submit(labels={"kustomize.toolkit.fluxcd.io/name": "apps"})
    code, _, err = run("pause", "demo")
    assert code == 0
    assert "warning: Flux applies FineTuneJob demo from Git" in err
    assert 'commit it to the manifest: {"spec": {"suspend": true}}' in err
    assert run("pause", "demo")[2] == ""
    assert run("wake", "demo")[2] == "", "Git does not own the annotation"


@pytest.mark.parametrize(("verb", "field"), [("pause", "suspend"), ("rerun", "rerun")])
def test_a_spec_that_is_edited_meanwhile_is_not_changed(
    place: Namespace, run: Run, monkeypatch: pytest.MonkeyPatch, verb: str, field: str
) -> None:
    place.submit()
    job = place.path("finetunejobs", "demo")
    meanwhile: list[tuple[str, dict[str, Any]]] = [(job, {"spec": {"storage": {"size": "21Gi"}}})]
    # This function is called between reading and writing.
    monkeypatch.setattr(changes, "warn_of_git", lambda *_: place.plane.merge(*meanwhile.pop()))
    code, text, err = run(verb, "demo")
    assert (code, text) == (1, "")
    assert err == (
        f"ftj {verb}: the spec of FineTuneJob demo was changed while this command ran, so nothing "
        "else was changed: run the command again\n"
    )
    assert not place.job()["spec"].get(field)
    meanwhile.append((f"{job}/status", {"status": {"build": "b"}}))
    assert run(verb, "demo")[0] == 0, "a new status is no conflict"
    assert place.job()["spec"].get(field)


def test_wake_sets_the_annotation_to_the_present_time(place: Namespace, run: Run) -> None:
    place.submit()
    code, text, _ = run("wake", "demo", "-o", "json")
    assert code == 0
    written = place.job()["metadata"]["annotations"]["finetune.dev/wake"]
    assert json.loads(text)["change"] == {
        "metadata": {"annotations": {"finetune.dev/wake": written}}
    }
    assert abs((datetime.now(UTC) - datetime.fromisoformat(written)).total_seconds()) < 60
    assert "does not sleep" in json.loads(text)["effect"]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ({"argocd.argoproj.io/tracking-id": "app:finetune.dev/FineTuneJob:team/demo"}, "Argo CD"),
        (None, None),
    ],
)
def test_rollback_returns_to_a_trained_revision_without_training(
    operator: OperatorProcess,
    place: Namespace,
    run: Run,
    owner: dict[str, str] | None,
    name: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place.submit(annotations=owner or {}, spec={"rerun": "first"})
    run_stages(place, "Serving")
    first = place.job()["status"]["revision"]
    assert "already describes revision" in run("rollback", "demo", first)[1]
    edit = {"spec": {"training": {"learningRate": 0.0007, "epochs": 2}, "rerun": None}}
    place.plane.merge(place.path("finetunejobs", "demo"), edit)
    wait_until("a revision starts", lambda: place.job()["status"]["revision"] != first)
    place.plane.merge(place.path("finetunejobs", "demo"), {"spec": {"rerun": "first"}})

    code, text, _ = run("rollback", "demo", first)
    assert code == 0
    assert "learningRate: 0.0002" in text
    assert "is trained, and its volume exists: it is not trained again." in text
    assert ("commit the lines above" in text) == (name is not None)
    assert place.job()["spec"]["training"]["learningRate"] == 0.0007, "it only prints"
    facts = json.loads(run("rollback", "demo", first, "-o", "json")[1])
    assert (facts["owner"], facts["trainsAgain"]) == (name, False)

    code, _, err = run("rollback", "demo", first, "--apply")
    assert code == 1
    assert "no terminal to ask" in err
    code, _, err = run("rollback", "demo", "absent")
    assert code == 1
    assert f"has no revision absent: name one of {first}" in err

    def confirmed(job: Any) -> bool:
        edit = {"spec": {"runPolicy": {"maxRestarts": 30}}}
        place.plane.merge(place.path("finetunejobs", "demo"), edit)
        return True

    monkeypatch.setattr(rollback, "_confirmed", confirmed)
    code, _, err = run("rollback", "demo", first, "--apply")
    assert code == 1
    assert "was changed while this command ran" in err
    assert place.job()["spec"]["training"]["learningRate"] == 0.0007
    assert run("rollback", "demo", first, "--apply", "--yes")[0] == 0
    wait_until("the revision is back", lambda: place.job()["status"]["revision"] == first)
    wait_until("it serves", lambda: place.reason() == "Serving")
    trained = [
        each
        for each in place.items("jobs")
        if each["metadata"]["labels"]["finetune.dev/stage"] == "train"
        and each["metadata"]["labels"]["finetune.dev/revision"] == first
    ]
    assert len(trained) == 1


def test_rollback_says_if_the_recipe_is_trained_again(
    operator: OperatorProcess, place: Namespace, run: Run
) -> None:
    place.submit(spec={"rerun": "first"})
    run_stages(place, "Serving")
    first = place.job()["status"]["revision"]
    edit = {"spec": {"training": {"epochs": 2}, "rerun": "second"}}
    place.plane.merge(place.path("finetunejobs", "demo"), edit)
    wait_until("a revision starts", lambda: place.job()["status"]["revision"] != first)
    text = run("rollback", "demo", first)[1]
    assert "trains a new revision with this recipe, because the value of spec.rerun" in text


def test_watch_prints_changes_until_the_jobs_are_finished(
    operator: OperatorProcess,
    place: Namespace,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.2)
    place.submit()
    place.submit("bad")

    def report() -> None:
        def status(pod: dict[str, Any]) -> dict[str, Any]:
            stage = kubelet.stage_of(pod)
            if pod["metadata"]["labels"]["finetune.dev/job"] == "bad":
                return fails(stage)
            return kubelet.serving() if stage == "serve" else kubelet.completed(stage)

        reported = set()
        end = time.monotonic() + 120
        while time.monotonic() < end and not done.wait(0.2):
            for pod in place.items("pods"):
                if pod["metadata"]["uid"] not in reported:
                    reported.add(pod["metadata"]["uid"])
                    kubelet.report(place, pod, status(pod))

    done = threading.Event()
    thread = threading.Thread(target=report)
    thread.start()
    try:
        code, text, _ = run("watch")
    finally:
        done.set()
        thread.join()
    assert code == 1
    lines = text.splitlines()
    assert any(line.startswith("demo Preparing") for line in lines)
    assert "demo Serving" in lines
    assert any(line.startswith("bad: ") and "ftj why bad" in line for line in lines)
    assert run("watch", "demo")[0] == 0
    (last,) = run("watch", "demo", "-o", "json")[1].splitlines()
    assert json.loads(last)["finished"] is True


@pytest.fixture
def logging_node(control_plane: ControlPlane) -> Iterator[str]:
    logs = {
        "trainer": b"one\n\x1b[2Jtwo\r\n\xff1%\r2%\r3%\nlast without end",
        "verify": b"refused\n",
    }
    with kubelet_server.node(control_plane, logs) as name:
        yield name


def post_pod(place: Namespace, name: str, stage: str, node: str | None, **spec: Any) -> Any:
    labels = {"finetune.dev/job": "demo", "finetune.dev/stage": stage}
    container = {"name": "trainer", "image": "registry.test/trainer:1", **spec}
    # Otherwise, the scheduler of a later test would give it the GPU of its node.
    scheduled = {"nodeName": node} if node else {"schedulerName": "none"}
    body: dict[str, Any] = {
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [container], **scheduled},
    }
    return place.plane.post(place.path("pods"), body)


def test_logs_are_those_of_the_stage_that_matters(
    place: Namespace, run: Run, logging_node: str
) -> None:
    place.submit()
    code, _, err = run("logs", "demo")
    assert code == 1
    assert "has not started a stage yet" in err
    pod = post_pod(place, "demo-train", "train", logging_node)
    kubelet.report(place, pod, kubelet.ended(1))
    stage = {"stage": "train", "attempt": 1, "outcome": "Failed"}
    revision = {"revision": "0a1b2c3d", "stages": [stage]}
    status = {"status": {"observedGeneration": 1, "revision": "0a1b2c3d", "revisions": [revision]}}
    place.plane.merge(f"{place.path('finetunejobs', 'demo')}/status", status)

    code, text, err = run("logs", "demo")
    assert (code, err) == (0, "log of pod demo-train, container trainer\n")
    printed = ["one", "\\x1b[2Jtwo", "\ufffd1%", "2%", "3%", "last without end"]
    assert text.splitlines() == printed
    assert run("logs", "demo", "--tail", "1", "-f")[1] == "last without end\n"
    facts = json.loads(run("logs", "demo", "-o", "json")[1])
    assert (facts["stage"], len(facts["lines"])) == ("train", 6)
    assert "last without end" in run("why", "demo")[1]
    facts = json.loads(run("why", "demo", "-o", "json")[1])
    assert len(facts["evidence"]["log"]) == 5
    code, _, err = run("logs", "demo", "--stage", "merge")
    assert code == 1
    assert "has no pod of the stage merge" in err
    assert "--stage can be train" in err
    assert run("logs", "demo", "--stage", "magic")[0] == 2


def test_chat_prints_the_answer_of_a_ready_pod_as_it_arrives(
    control_plane: ControlPlane, place: Namespace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def endpoint(request: bytes) -> Iterator[bytes]:
        head, _, body = request.partition(b"\r\n\r\n")
        if b"Bearer right" not in head:
            yield b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}"
            return
        asked.append(json.loads(body))
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        for word in ("Press ", "the\x1b[2J ", "button.\n"):
            event = {"choices": [{"delta": {"content": word}}]}
            yield f"data: {json.dumps(event)}\n\n".encode()
        yield b"data: [DONE]\n\n"

    key = {"serving": {"apiKeySecretRef": {"name": "key", "key": "key"}}}
    place.submit(spec=key)
    serving = {"build": "0a1b2c3d", "model": "demo-model"}
    status = {"status": {"observedGeneration": 1, "serving": serving}}
    place.plane.merge(f"{place.path('finetunejobs', 'demo')}/status", status)
    with kubelet_server.node(control_plane, {}, endpoint) as node:
        pod = post_pod(place, "demo-serve", "serve", node)
        label = {"metadata": {"labels": {"finetune.dev/build": "0a1b2c3d"}}}
        place.plane.merge(place.path("pods", "demo-serve"), label)
        code, _, err = run("chat", "demo", "How?")
        assert code == 1
        assert "no pod of FineTuneJob demo answers requests" in err
        kubelet.report(place, pod, kubelet.serving())
        code, _, err = run("chat", "demo", "How?")
        assert code == 1
        assert "needs a key: set FTJ_API_KEY" in err
        monkeypatch.setenv("FTJ_API_KEY", "wrong")
        code, _, err = run("chat", "demo", "How?")
        assert code == 1
        assert "rejects the API key" in err
        monkeypatch.setenv("FTJ_API_KEY", "right")
        code, text, err = run("chat", "demo", "How?", "--max-tokens", "9", "--system", "Be brief.")
        assert (code, err) == (0, "")
        assert text == "Press the\\x1b[2J button.\n\n"
        facts = json.loads(run("chat", "demo", "How?", "-o", "json")[1])
    assert facts["messages"][-1]["content"] == "Press the\x1b[2J button.\n"
    assert asked[0] == {
        "model": "demo-model",
        "max_tokens": 9,
        "stream": True,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "How?"},
        ],
    }


def test_compare_asks_only_verified_models_and_shows_their_answers(
    control_plane: ControlPlane, place: Namespace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def endpoint(request: bytes) -> Iterator[bytes]:
        asked.append(body := json.loads(request.partition(b"\r\n\r\n")[2]))
        if body["model"] == "other-base":
            yield b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"
            return
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        text = f"{body['model']} says\n\x1b[2J{body['messages'][-1]['content']}"
        event = {"choices": [{"delta": {"content": text}}]}
        yield f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode()

    def serve(name: str, build: str, node: str, *, pod_build: str | None = None) -> None:
        place.submit(name)
        serving = {"build": build, "revision": "0a1b2c3d", "model": name}
        status = {"observedGeneration": 1, "serving": serving}
        place.plane.merge(f"{place.path('finetunejobs', name)}/status", {"status": status})
        pod = post_pod(place, f"{name}-serve", "serve", node)
        labels = {"finetune.dev/job": name, "finetune.dev/build": pod_build or build}
        change = {"metadata": {"labels": labels}}
        place.plane.merge(place.path("pods", f"{name}-serve"), change)
        kubelet.report(place, pod, kubelet.serving())

    with kubelet_server.node(control_plane, {}, endpoint) as node:
        serve("demo", "b1", node)
        serve("other", "b2", node)
        serve("new", "b3", node, pod_build="b4")
        code, text, err = run("compare", "demo", "demo-base", "-m", "Hi")
        assert (code, err) == (0, "")
        lines = ["Hi", "demo", "  demo says", "  \\x1b[2JHi", "demo-base", "  demo-base says"]
        assert text.splitlines()[:6] == lines
        assert {each["temperature"] for each in asked} == {0.0}
        monkeypatch.setenv("COLUMNS", "100")
        code, text, _ = run("compare", "demo@0a1b2c3d", "other", "-m", "Hi")
        assert ["demo", "says", "other", "says"] in [line.split() for line in text.splitlines()]
        found = json.loads(run("compare", "demo", "other", "-m", "a", "-m", "b", "-o", "json")[1])
        assert found["models"] == ["demo", "other"]
        assert [each["prompt"] for each in found["results"]] == ["a", "b"]
        before = len(asked)
        code, _, err = run("compare", "demo", "new", "-m", "Hi")
        assert code == 1
        assert "no pod of FineTuneJob new answers requests" in err
        code, _, err = run("compare", "demo@ffffffff", "other", "-m", "Hi")
        assert code == 1
        assert "revision ffffffff of FineTuneJob demo is not served" in err
        assert len(asked) == before, "no candidate is asked"
        code, _, err = run("compare", "demo", "other-base", "-m", "Hi")
        assert code == 1
        assert "other-base: the endpoint answers 404" in err
        assert "only with serving.mode: adapter or shared" in err


def test_doctor_names_what_a_cluster_lacks(
    place: Namespace, run: Run, limited: Callable[..., Path], tmp_path: Path
) -> None:
    code, text, err = run("doctor", "-o", "json")
    assert (code, err) == (1, "")
    found = {each["about"]: each for each in json.loads(text)["findings"]}
    assert found["Kubernetes"]["state"] == found["FineTuneJob API"]["state"] == "ok"
    assert found["operator"]["found"] == "no Deployment"
    assert found["StorageClass"]["remedy"]
    assert found["Kueue"]["found"] == "not installed: jobs start at once"
    assert found["your rights"]["state"] == "ok"
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    kubeconfig = limited(tmp_path, rule)
    found = {}
    for each in json.loads(run("doctor", "-o", "json", kubeconfig=kubeconfig)[1])["findings"]:
        found.setdefault(each["about"], []).append(each)
    assert [each["state"] for each in found["GPUs"]] == ["unknown"]
    lacking = [each["found"] for each in found["your rights"]]
    assert any("you may not create finetunejobs" in each for each in lacking)
    assert not any("list pods" in each for each in lacking)


def test_diff_and_cost_read_the_revisions_of_a_job(
    operator: OperatorProcess, place: Namespace, run: Run
) -> None:
    place.submit(spec={"rerun": "first"})
    run_stages(place, "Serving")
    first = place.job()["status"]["revision"]
    edit = {"spec": {"training": {"epochs": 2}, "rerun": "second"}}
    place.plane.merge(place.path("finetunejobs", "demo"), edit)
    wait_until("a revision starts", lambda: place.job()["status"]["revision"] != first)
    second = place.job()["status"]["revision"]
    code, text, err = run("diff", "demo", first, second)
    assert (code, err) == (0, "")
    found = [" ".join(line.split()) for line in text.splitlines()]
    assert any(line.startswith("training.epochs ") and line.endswith(" 2") for line in found)
    code, text, err = run("cost", "demo")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in text.splitlines()[:3]] == ["REVISION", first, second]
    code, text, _ = run("cost", "-o", "json")
    assert (code, [each["name"] for each in json.loads(text)["jobs"]]) == (0, ["demo"])
    stages = {each["stage"]: each for each in place.job()["status"]["revisions"][0]["stages"]}
    assert stages["train"]["started"] <= stages["train"]["ended"]


def trains(place: Namespace, node: str, outcome: str, history: Any = None) -> None:
    """Give job demo a revision whose training has an outcome, and the pod that trains it."""
    revision, stage = "0a1b2c3d", {"stage": "train", "attempt": 1, "outcome": outcome}
    record: dict[str, Any] = {"revision": revision, "stages": [stage]}
    if history is not None:
        record["artifacts"] = {"lossHistory": history}
    status = {"observedGeneration": 1, "revision": revision, "revisions": [record]}
    place.plane.merge(f"{place.path('finetunejobs', 'demo')}/status", {"status": status})
    if outcome == "Running":
        pod = post_pod(place, "demo-train", "train", node)
        label = {"metadata": {"labels": {"finetune.dev/revision": revision}}}
        place.plane.merge(place.path("pods", "demo-train"), label)
        kubelet.report(place, pod, kubelet.running())


def test_curve_reads_the_pod_while_it_trains_and_the_ledger_afterwards(
    control_plane: ControlPlane, place: Namespace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve, "POLL_SECONDS", 0.1)
    asked: list[bytes] = []
    served = iter(
        [
            (404, b"# metrics of an older trainer"),
            (200, b'{"loss": [[1, "\x1b[2J"]]}'),
            (200, b"{}"),
            (200, b'{"loss": [[1, 3.5], [2, 2.5]]}'),
            (200, b"{}"),
        ]
    )

    def endpoint(request: bytes) -> Iterator[bytes]:
        asked.append(request.partition(b"\r\n")[0])
        try:
            code, body = next(served)
        except StopIteration:
            trains(place, node, "Completed", {"loss": [[1, 3.5], [9, 1.25]]})
            code, body = 200, b'{"loss": [[1, 3.5]]}'
        yield b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (code, len(body), body)

    place.submit()
    with kubelet_server.node(control_plane, {}, endpoint, port=9400) as node:
        trains(place, node, "Running")
        for _ in range(2):
            code, text, err = run("curve", "demo")
            assert (code, text) == (1, "")
            assert "pod demo-train serves no loss history: its trainer image is of an older" in err
        assert "has not logged a step yet: add --follow" in run("curve", "demo")[2]
        facts = json.loads(run("curve", "demo", "-o", "json")[1])["revisions"]
        series = {"loss": [[1, 3.5], [2, 2.5]]}
        assert facts == [{"revision": "0a1b2c3d", "live": True, "series": series}]
        code, text, err = run("curve", "demo", "--follow", "--csv")
    assert (code, err) == (0, "")
    assert text.splitlines()[-1] == "0a1b2c3d,9,1.25,,,"
    assert set(asked) == {b"GET /loss-history HTTP/1.1"}


@pytest.fixture
def limited(place: Namespace) -> Callable[..., Path]:
    """Return a function that writes the kubeconfig of a user with some rights in the namespace."""
    return functools.partial(limited_user.kubeconfig, place)


GPU = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}


def test_gpus_are_shown_with_the_jobs_that_use_them(
    place: Namespace, run: Run, limited: Callable[..., Path], tmp_path: Path
) -> None:
    code, text, _ = run("gpus")
    assert code == 0
    post_pod(place, "demo-train", "train", "gpu-node-2", **GPU)
    post_pod(place, "demo-serve", "serve", None, **GPU)
    post_pod(place, "demo-merge", "merge", "gpu-node-2")
    code, text, _ = run("gpus")
    using, waiting = text.split("Waiting")
    assert f"{place.name}/demo (train)" in using
    assert "gpu-node-2" in using
    assert f"{place.name}/demo (serve)" in waiting
    assert "demo-merge" not in text
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    kubeconfig = limited(tmp_path, rule)
    code, text, _ = run("gpus", kubeconfig=kubeconfig)
    assert code == 0
    assert f"Only the pods of namespace {place.name} are listed" in text
    facts = json.loads(run("gpus", "-o", "json", kubeconfig=kubeconfig)[1])
    assert facts["allNamespaces"] is False
    assert {each["stage"] for each in facts["pods"]} == {"train", "serve"}


@pytest.mark.parametrize("verb", NAMED)
def test_a_missing_job_and_a_missing_right_are_one_line(
    verb: str, place: Namespace, run: Run, limited: Callable[..., Path], tmp_path: Path
) -> None:
    code, out, err = run(verb, "absent/../x")
    assert (code, out) == (1, "")
    assert err.startswith(f"ftj {verb}: FineTuneJob absent/../x does not exist in namespace ")
    assert err.count("\n") == 1
    place.submit()
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    code, out, err = run(verb, "demo", kubeconfig=limited(tmp_path, rule))
    assert (code, out) == (1, "")
    assert "cannot get resource" in err
    assert "ask an administrator of the cluster for this right" in err
    assert err.count("\n") == 1


def test_a_right_to_read_is_none_to_change(
    place: Namespace, run: Run, limited: Callable[..., Path], tmp_path: Path
) -> None:
    place.submit()
    rule = {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["get", "list"]}
    kubeconfig = limited(tmp_path, rule)
    assert run("status", "demo", kubeconfig=kubeconfig)[0] == 0
    assert run("why", "demo", kubeconfig=kubeconfig)[0] == 0
    code, out, err = run("pause", "demo", kubeconfig=kubeconfig)
    assert (code, out) == (1, "")
    assert "cannot patch resource" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("server", "does not answer"),
        ("context", "the kubeconfig cannot be used"),
        ("token", "rejects the credentials"),
        ("text", "the kubeconfig cannot be used"),
        ("absent", "the kubeconfig cannot be used"),
    ],
)
@pytest.mark.parametrize("verb", [["status"], ["gpus"], ["pause", "demo"]])
def test_a_cluster_that_cannot_be_reached_is_one_line(
    verb: list[str], change: str, words: str, place: Namespace, run: Run, tmp_path: Path
) -> None:
    config = yaml.safe_load(place.plane.kubeconfig.read_text())
    path = tmp_path / "kubeconfig"
    match change:
        case "server":
            config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
        case "context":
            config["current-context"] = "absent"
        case "token":
            config["users"][0]["user"]["token"] = "wrong"
    path.write_text("{" if change == "text" else yaml.safe_dump(config))
    if change == "absent":
        path = tmp_path / "absent"
    code, out, err = run(*verb, kubeconfig=path)
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


def test_init_prints_a_manifest_that_the_server_accepts(
    place: Namespace, run: Run, tmp_path: Path
) -> None:
    price = {"perGpuHour": "0.80", "currency": "EUR"}
    profile = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneProfile",
        "metadata": {"name": "small"},
        "spec": {"description": "one L4", "card": "NVIDIA-L4", "price": price},
    }
    place.plane.post(PROFILES, profile)
    sources = ("--model", "hf://org/base", "--dataset", "hf://org/rows")
    try:
        code, text, _ = run("init", "mine", *sources, "--profile", "small")
        assert code == 0
        assert "# Profile small: one L4; card NVIDIA-L4; 0.80 EUR per GPU hour" in text
        manifest = yaml.safe_load(text)
        assert manifest["spec"]["profile"] == "small"
        place.plane.post(place.path("finetunejobs"), manifest)
        code, text, _ = run("init", "mine", *sources)
        assert "# Profiles that you may use, for spec.profile: small" in text
        assert "profile" not in yaml.safe_load(text)["spec"]
        code, _, err = run("init", "mine", *sources, "--profile", "large")
        assert code == 1
        assert "large does not exist, or you may not use it: set --profile to one of small" in err
        assert run("init", "Bad_Name", *sources)[0] == 64
    finally:
        place.plane.delete(f"{PROFILES}/small")
    code, text, _ = run("init", "mine", *sources, kubeconfig=tmp_path / "absent")
    assert code == 0
    assert "# The profiles of the cluster are not known: " in text


def test_a_shell_completes_verbs_options_and_the_names_of_jobs(
    place: Namespace, tmp_path: Path
) -> None:
    place.submit()
    place.submit("denver")
    config = yaml.safe_load(place.plane.kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = place.name
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))

    def completed(text: str) -> set[str]:
        words = {"_FTJ_COMPLETE": "complete_bash", "COMP_WORDS": text, "KUBECONFIG": str(path)}
        command = "import sys; sys.argv[0] = 'ftj'; from finetune_cli.__main__ import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", command],
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(sys.path), "COMP_CWORD": str(len(text.split(" ")) - 1)}
            | words,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return set(done.stdout.split())

    assert completed("ftj re") == {"resume", "retry", "rerun"}
    assert completed("ftj why de") == {"demo", "denver"}
    assert completed("ftj why dem") == {"demo"}
    assert "--namespace" in completed("ftj why --n")
