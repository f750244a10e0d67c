"""How far a command has come: Prometheus metrics on a port, and one log line a report.

A figure is absent from the metrics until it is known; there is never a 0 that was not measured.
"""

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PORT_VARIABLE = "FINETUNE_METRICS_PORT"
DEFAULT_PORT = 9400
POD_UID_VARIABLE = "FINETUNE_POD_UID"

HELP = {
    "progress_ratio": "Share of this stage that is done, from 0 to 1.",
    "download_bytes": "Bytes of base or dataset that have arrived.",
    "download_size_bytes": "Bytes of base or dataset in all.",
    "global_step": "Optimizer steps done.",
    "max_steps": "Optimizer steps planned.",
    "train_loss": "Training loss of the last logged step.",
    "eval_loss": "Loss on the held-out rows at the last evaluation.",
    "learning_rate": "Learning rate of the last logged step.",
    "grad_norm": "Norm of the gradients, before clipping, at the last logged step.",
    "tokens_per_second": "Tokens trained a second since the last logged step.",
    "epoch": "Passes over the rows so far.",
    "eta_seconds": "Seconds until this stage is done, estimated.",
    "last_checkpoint_step": "Step of the newest checkpoint that was verified and published.",
    "gpu_seconds": "GPU seconds of this job's training, over all attempts.",
    "step_seconds": "Seconds of the last optimizer step, without its wait for rows.",
    "data_wait_seconds": "Seconds that steps of this process waited for their rows.",
    "gpu_memory_peak_bytes": "Most GPU memory that was allocated at once in this process.",
}
COUNTERS = {"gpu_seconds", "data_wait_seconds"}
RETRIES = "Times that this training was begun again, over all attempts, by cause."
CHECKPOINT_AGE = "Seconds since the newest checkpoint of this process was published."


class Progress(Collector):
    """The figures of one command. ``set`` may be called from any thread."""

    def __init__(self, stage: str) -> None:
        """Start with nothing but the stage's name."""
        self.stage = stage
        self._values: dict[str, float] = {}
        self._started = time.monotonic()
        self._ratio_at_start = 0.0
        self._retries: dict[str, int] = {}
        self._checkpoint_at: float | None = None

    def retried(self, counts: Mapping[str, int]) -> None:
        """Record how often the training was begun again, by cause."""
        self._retries = dict(counts)

    def checkpoint_published(self, step: int) -> None:
        """Record that a checkpoint was published just now."""
        self.set(last_checkpoint_step=step)
        self._checkpoint_at = time.monotonic()

    def set(self, **values: float | None) -> None:
        """Record figures by their name in ``HELP``. None leaves the present one."""
        for name, value in values.items():
            if name not in HELP:
                raise KeyError(name)
            if value is not None:
                self._values[name] = float(value)

    def get(self, name: str) -> float | None:
        """Return a figure, or None while it is unknown."""
        return self._values.get(name)

    def start_from(self, ratio: float) -> None:
        """Say that this attempt begins at ``ratio``, so that the estimate counts its own work."""
        self._started = time.monotonic()
        self._ratio_at_start = ratio

    def fetching(self, left: int, size: int) -> None:
        """Say that ``left`` of ``size`` bytes have to come: the others came in earlier attempts."""
        self.start_from(1 - left / size if size else 0.0)

    def ratio(self, ratio: float) -> None:
        """Record the share that is done, and the time left at the pace of this attempt."""
        ratio = min(1.0, max(0.0, ratio))
        done = ratio - self._ratio_at_start
        elapsed = time.monotonic() - self._started
        self.set(
            progress_ratio=ratio, eta_seconds=elapsed * (1 - ratio) / done if done > 0 else None
        )

    def transferred(self, count: int, size: int) -> None:
        """Record how many of the bytes to fetch have arrived."""
        count = min(count, size)
        self.set(download_bytes=count, download_size_bytes=size)
        self.ratio(count / size if size else 1.0)

    def collect(self) -> Iterator[Metric]:
        """Yield what is known (called by prometheus_client on every scrape)."""
        info = GaugeMetricFamily("finetune_stage_info", "The stage that runs.", labels=["stage"])
        info.add_metric([self.stage], 1.0)
        yield info
        # Whoever asks by address learns whom it has reached: addresses are used again.
        if uid := os.environ.get(POD_UID_VARIABLE):
            pod = GaugeMetricFamily("finetune_pod_info", "The pod that runs it.", labels=["uid"])
            pod.add_metric([uid], 1.0)
            yield pod
        for name, value in list(self._values.items()):
            family = CounterMetricFamily if name in COUNTERS else GaugeMetricFamily
            yield family(f"finetune_{name}", HELP[name], value=value)
        if self._checkpoint_at is not None:
            age = time.monotonic() - self._checkpoint_at
            yield GaugeMetricFamily("finetune_checkpoint_age_seconds", CHECKPOINT_AGE, value=age)
        if self._retries:
            retries = CounterMetricFamily("finetune_retries", RETRIES, labels=["cause"])
            for cause, count in sorted(self._retries.items()):
                retries.add_metric([cause], count)
            yield retries

    def serve(self) -> None:
        """Serve /metrics on port 9400, or where FINETUNE_METRICS_PORT says ("off": nowhere)."""
        port = os.environ.get(PORT_VARIABLE, str(DEFAULT_PORT))
        if port == "off":
            return
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            start_http_server(int(port), registry=registry)
        except OSError as error:
            log(f"no metrics: port {port} cannot be listened on ({error})")


def log(text: str) -> None:
    """Write one line to stderr, where the pod's log is read."""
    print(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}", file=sys.stderr, flush=True)


def duration(seconds: float | None) -> str:
    """Write seconds as a person would: 1h02m, 3m20s, 15s."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
