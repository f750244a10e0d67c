"""Run the operator as a process against a control plane, with the command of its image."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.support.api_server import operator_forks
from tests.support.api_server.controlplane import (
    REQUEST_SECONDS,
    ControlPlane,
    end,
    process,
    wait_until,
)
from tests.support.api_server.operator_forks import Fork
from tests.support.busy_machine import seconds_without_core
from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]
PACKAGES = (ROOT / "operator", ROOT / "crds")
CONFIG: Mapping[str, Any] = {
    "images": {
        "trainer": "registry.test/trainer:1",
        "serving": "registry.test/serving:1",
        "operator": "registry.test/operator:1",
    },
    "logLevel": "debug",
}


SETTLED_SECONDS, SETTLED_ANSWERS = 0.3, 6
"""An operator is idle after this time, which is longer than its settle delay, and after this number
of responses, which matters on a busy machine."""

FAILED = "reconcile failed"
LATE = re.compile(r"time-?out|timed out", re.IGNORECASE)
"""In the message of a request without a response in time."""
LOST = "no longer the leader"
EXPIRED = re.compile(rf"{LOST}|have not been read yet")
"""In the messages of reconciles when the Lease expired, and when it was acquired again."""

MAIN = "import sys; from finetune_operator.__main__ import main; sys.exit(main())"


class Metrics:
    """The metrics in one response of an operator."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()

    def sum(self, name: str, /, **labels: str) -> float:
        """Return the sum of a metric's samples that have the labels."""
        total = 0.0
        for line in self._lines:
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                own = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if labels.items() <= own.items():
                    total += float(found[3])
        return total


@dataclass(kw_only=True)
class OperatorProcess:
    """A running operator."""

    process: subprocess.Popen[bytes] | Fork
    metrics_port: int
    probe_port: int
    log: Path
    ready_seconds: float = 0.0

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a response of the operator; status 0 without a response."""
        port = self.metrics_port if path == "/metrics" else self.probe_port
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}{path}", timeout=REQUEST_SECONDS
            ) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        """Report whether the operator is ready. Raise RuntimeError if its process has ended."""
        self._require_process()
        return self.get("/readyz")[0] == 200

    def metrics(self) -> Metrics:
        """Return all metrics at one moment. Raise RuntimeError if the process has ended."""
        found = Metrics("")

        def answers() -> bool:
            nonlocal found
            self._require_process()
            status, text = self.get("/metrics")
            found = Metrics(text)
            return status == 200

        wait_until("the operator returns its metrics", answers)
        return found

    def _require_process(self) -> None:
        if self.process.poll() is not None:
            raise RuntimeError(f"the operator ended:\n{self.log.read_text()}")

    def metric(self, name: str, /, **labels: str) -> float:
        """Return the sum of a metric's samples that have the labels."""
        return self.metrics().sum(name, **labels)

    def failures(self) -> list[str]:
        """Return the messages of the reconciles that failed and were repeated.

        A late response is no failure of the operator: a busy machine causes it. On such a machine
        the Lease can also expire, which the operator reports.
        """
        messages = [json.loads(line)["message"] for line in self.log.read_text().splitlines()]
        causes = [LATE, EXPIRED] if LOST in messages else [LATE]
        return [
            message
            for message in messages
            if message.startswith(FAILED) and not any(cause.search(message) for cause in causes)
        ]

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit code and the seconds until the process had ended.

        The time in which the process waited for a CPU core of a busy machine is subtracted.
        """
        pid, waited = self.process.pid, seconds_without_core(self.process.pid)
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        # WNOWAIT leaves the ended process in /proc until its times have been read.
        how = os.WEXITED | os.WNOWAIT | os.WNOHANG
        wait_until("the operator has ended", lambda: os.waitid(os.P_PID, pid, how) is not None)
        seconds = time.monotonic() - started - (seconds_without_core(pid) - waited)
        return self.process.wait(), seconds

    def settled(self) -> None:
        """Wait until the queue is empty, no worker is active, and no event is pending."""
        last, since, answers = -1.0, 0.0, 0

        def idle() -> bool:
            nonlocal last, since, answers
            now = self.metrics()
            reconciles = now.sum("controller_runtime_reconcile_total")
            waiting = now.sum("workqueue_depth") + now.sum("controller_runtime_active_workers")
            if waiting or reconciles != last:
                last, since, answers = reconciles, time.monotonic(), 0
            answers += 1
            long = answers > SETTLED_ANSWERS and time.monotonic() - since > SETTLED_SECONDS
            return reconciles > 0 and long

        # The response of an operator costs little, and a state must be seen several times.
        wait_until("the operator is idle", idle, last_poll=0.1)

    def writes(self) -> float:
        """Return the number of requests that changed objects of jobs.

        PUT is not counted, because it renews the Lease every two seconds. Status writes also use
        PUT; they change the resourceVersion of the FineTuneJob.
        """
        now = self.metrics()
        return sum(
            now.sum("rest_client_requests_total", method=method)
            for method in ("POST", "PATCH", "DELETE")
        )


@contextmanager
def operator(
    plane: ControlPlane, folder: Path, config: Mapping[str, Any] = CONFIG, **how: Any
) -> Iterator[OperatorProcess]:
    """Start the operator, wait until it is ready, and run it until the end of the block.

    how: arguments of ``starting``.
    """
    with starting(plane, folder, config, **how) as running:
        began = time.monotonic()
        wait_until(f"the operator is ready (log: {running.log})", running.ready)
        running.ready_seconds = time.monotonic() - began
        yield running


@contextmanager
def starting(
    plane: ControlPlane,
    folder: Path,
    config: Mapping[str, Any] = CONFIG,
    port: int = 0,
    *,
    kubeconfig: Path | None = None,
    pod: str = "operator-under-test",
    prelude: str = "",
    environment: Mapping[str, str] | None = None,
    forked: bool = True,
    command: Sequence[str] = (),
) -> Iterator[OperatorProcess]:
    """Run the operator until the end of the block; do not wait until it is ready.

    kubeconfig: by default that of the administrator. pod: the identity in leader election.
    prelude: Python code that runs first, to shorten delays. environment: additional variables.
    command: arguments of Python; by default those of the image. forked: without any of these, fork
    a process that has imported the operator, if there is one. If so, the operator also has the
    delays of tests (``SHORT_DELAYS``), with a prelude, too.
    """
    # A separate Lease that no other operator holds, in a namespace that always exists.
    config = {
        "operatorNamespace": "default",
        "leaseName": f"lease-{uuid.uuid4().hex}",
        "metrics": {"secure": False},
        **config,
    }
    file = folder / f"config-{uuid.uuid4().hex}.yaml"
    file.write_text(yaml.safe_dump(config))
    metrics_port, probe_port = port or free_port(), free_port()
    variables = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig or plane.kubeconfig),
        "PYTHONPATH": os.pathsep.join(map(str, PACKAGES)),
        "POD_NAME": pod,
        "FINETUNE_CONFIG": str(file),
        "FINETUNE_METRICS_PORT": str(metrics_port),
        "FINETUNE_PROBE_PORT": str(probe_port),
        **(environment or {}),
    }
    log = folder / f"operator-{time.monotonic_ns()}.log"
    shorter = operator_forks.SHORT_DELAYS if forked and operator_forks.available() else ""
    if shorter and not prelude and not environment and not command:
        started = _forked(variables, log)
    else:
        first = shorter + prelude
        code = ["-c", f"{first}\n{MAIN}"] if first else ["-m", "finetune_operator"]
        started = process([sys.executable, *(command or code)], log, variables)
    with started as running:
        yield OperatorProcess(
            process=running, metrics_port=metrics_port, probe_port=probe_port, log=log
        )


@contextmanager
def _forked(variables: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes] | Fork]:
    running = operator_forks.fork(variables, log)
    try:
        yield running
    finally:
        end(running)
