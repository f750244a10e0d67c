"""Sending results to a real MLflow server, whose database keeps each point of a metric once.

The environment variable ``MLFLOW`` names its program if it is not in ``PATH``: it needs other
versions of libraries than the trainer.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.ports import free_port
from tests.support.trainer import publishing
from tests.support.trainer.publishing import Volume, run

PROGRAM = os.environ.get("MLFLOW") or shutil.which("mlflow")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="the package mlflow is missing")
SOURCES = (
    f"oci://registry.example.com/models/support@sha256:{'1' * 64}",
    f"s3://models/support/sha256-{'2' * 64}/",
    f"hf://acme/support@{'3' * 40}",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(PROGRAM), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        # In a group of its own: its workers outlive it.
        process = subprocess.Popen(command, cwd=folder, stderr=log, stdout=log, process_group=0)
    try:
        _wait(url, process, folder / "log")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-4000:])


def target(volume: Volume, server: str, source: str) -> dict[str, Any]:
    place = {
        "uri": server,
        "experiment": "team/support",
        "run": "uid-of-job/36244a02",
        "started": 1_700_000_000_000,
        "tags": {"finetune.dev/published.a": source},
        "registered_model": "support",
        "source": source,
    }
    return volume.target("adapter", name="mlflow", mlflow=place)


def post(server: str, path: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{server}/api/2.0/mlflow/{path}", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def get(server: str, path: str, **query: str) -> dict[str, Any]:
    answer = httpx.get(f"{server}/api/2.0/mlflow/{path}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_run_and_versions(volume: Volume, server: str) -> None:
    for source in (*SOURCES, SOURCES[-1]):
        done = run(volume, target(volume, server, source))
        assert done.error is None, done.failure
    experiment = get(server, "experiments/get-by-name", experiment_name="team/support")
    ids = [experiment["experiment"]["experiment_id"]]
    (made,) = post(server, "runs/search", experiment_ids=ids)["runs"]
    assert made["info"]["status"] == "FINISHED"
    assert made["info"]["run_name"] == "tiny-1-adapter"
    params = {each["key"]: each["value"] for each in made["data"]["params"]}
    assert params["training.lora.r"] == str(volume.job.training.lora.r)
    tags = {each["key"]: each["value"] for each in made["data"]["tags"]}
    assert tags["finetune.dev/published.a"] == SOURCES[-1]
    for name, expected in publishing.HISTORY.items():
        history = get(server, "metrics/get-history", run_id=made["info"]["run_id"], metric_key=name)
        points = [(int(each["step"]), each["value"]) for each in history["metrics"]]
        assert points == expected, name
    found = get(server, "model-versions/search", filter="name='support'")["model_versions"]
    assert sorted(each["source"] for each in found) == sorted(SOURCES)
    assert {each["status"] for each in found} == {"READY"}
    assert {each["run_id"] for each in found} == {made["info"]["run_id"]}
