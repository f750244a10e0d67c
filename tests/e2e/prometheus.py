"""A Prometheus on this machine that scrapes the operator and the pods of a namespace.

Its targets have the labels that the PodMonitor of the chart gives them. Debian builds Prometheus
without the discovery of Kubernetes' objects, so a thread writes the targets into a file.
"""

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.e2e import metrics
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import OPERATOR_NAMESPACE, REPOSITORY, Cluster
from tests.support.ports import free_port

from finetune_operator.metrics_server import server
from finetune_operator.objects import naming

INTERVAL = "2s"
PORTS = frozenset({"metrics", "verify", "http"})
"""Names of the ports with metrics."""
START_SECONDS = 60.0
DASHBOARDS = REPOSITORY / "charts/finetune-operator/files/dashboards"
RANGES = {"$__rate_interval": "20s", "$__range": "1h", "[1d]": "[1h]"}
"""In place of the ranges of Grafana, and of one that is longer than a test."""


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """A running Prometheus. began: time of its start, in seconds since the epoch."""

    url: str
    began: float

    def series(self, query: str, *, step: int = 2) -> list[Any]:
        """Return the series of a query, from the start of Prometheus until now."""
        arguments = {"query": query, "start": self.began, "end": time.time(), "step": step}
        answer = self._get(f"query_range?{urllib.parse.urlencode(arguments)}")
        return list(answer["data"]["result"])

    def empty_panels(
        self, dashboard: str, choices: Mapping[str, str], *, unused: Collection[str] = ()
    ) -> list[str]:
        """Return the panels of a dashboard of the chart with a query that returns no data.

        choices: values of its variables; unused: parts of queries that are not tried.
        """
        empty = []
        for panel in json.loads((DASHBOARDS / f"{dashboard}.json").read_text())["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"]
                for name, value in {**choices, **RANGES}.items():
                    query = query.replace(name, value)
                if not any(part in query for part in unused) and not self.series(query):
                    empty.append(f"{dashboard}, {panel['title']}: {query}")
        return empty

    def ready(self) -> bool:
        """Report whether it answers."""
        try:
            self._get("status/buildinfo")
        except OSError:
            return False
        return True

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=30) as answer:
            return json.load(answer)


@contextmanager
def scraping(cluster: Cluster, namespace: str) -> Iterator[Prometheus]:
    """Run Prometheus within the block."""
    program = shutil.which("prometheus", path=os.defpath + os.pathsep + os.environ["PATH"])
    assert program, "prometheus is missing: apt-get install prometheus"
    with tempfile.TemporaryDirectory(prefix="finetune-prometheus-") as name:
        folder, ended = Path(name), threading.Event()
        _configure(folder, metrics.reader_token(cluster))
        follower = threading.Thread(target=_follow, args=(cluster, namespace, folder, ended))
        follower.start()
        address = f"127.0.0.1:{free_port()}"
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    program,
                    f"--config.file={folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            prometheus = Prometheus(url=f"http://{address}", began=time.time())
            deadline = time.monotonic() + START_SECONDS
            while not prometheus.ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "log").read_text())
                time.sleep(0.2)
            yield prometheus
        finally:
            ended.set()
            process.terminate()
            process.wait(30)
            follower.join()


def _configure(folder: Path, token: str) -> None:
    def scrape(job: str, **options: Any) -> dict[str, Any]:
        files = [{"files": [str(folder / f"{job}.json")], "refresh_interval": "1s"}]
        return {"job_name": job, "file_sd_configs": files, **options}

    operator = scrape(
        "operator",
        scheme="https",
        authorization={"credentials": token},
        tls_config={"insecure_skip_verify": True},
    )
    document = {
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL},
        "scrape_configs": [operator, scrape("jobs")],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(document))


def _follow(cluster: Cluster, namespace: str, folder: Path, ended: threading.Event) -> None:
    """Write the targets until the end. Prometheus reads a file when it is renamed, too."""
    while not ended.wait(1):
        jobs = [
            target
            for pod in cluster.record.present("Pod", namespace)
            for target in _targets(pod, naming.JOB)
        ]
        replicas = [
            _target(pod, server.PORT) for pod in cluster.record.present("Pod", OPERATOR_NAMESPACE)
        ]
        for name, targets in (("jobs", jobs), ("operator", replicas)):
            draft = folder / f"{name}.draft"
            draft.write_text(json.dumps([each for each in targets if each]))
            draft.rename(folder / f"{name}.json")


def _targets(pod: Object, label: str) -> Iterator[Object | None]:
    if label in pod["metadata"].get("labels", {}):
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            for port in container.get("ports", ()):
                if port.get("name") in PORTS:
                    yield _target(pod, port["containerPort"])


def _target(pod: Object, port: int) -> Object | None:
    """Return a target of the file, or None for a pod that does not run."""
    status = pod.get("status", {})
    address = status.get("podIP") if status.get("phase") == "Running" else None
    metadata = pod["metadata"]
    labels = {"namespace": metadata["namespace"], "pod": metadata["name"]}
    if job := metadata.get("labels", {}).get(naming.JOB):
        labels["finetune_dev_job"] = job
    return {"targets": [f"{address}:{port}"], "labels": labels} if address else None
