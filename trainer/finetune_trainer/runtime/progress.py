"""Progress of a command: Prometheus metrics and the loss history on port 9400, and log lines.

A metric is absent until its value is known; it never reports a 0 that was not measured.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_api.contracts import loss_history
from finetune_api.contracts.ports import POD_UID_VARIABLE, TRAINER_METRICS
from finetune_trainer.runtime.log import log

PORT_VARIABLE = "FINETUNE_METRICS_PORT"

HELP = {
    "progress_ratio": "Completed fraction of this stage, from 0 to 1.",
    "download_bytes": "Number of downloaded bytes of the base model or dataset.",
    "download_size_bytes": "Total size in bytes of the base model or dataset that is downloaded.",
    "upload_bytes": "Number of bytes of the model that the targets of spec.publish hold.",
    "upload_size_bytes": "Total size in bytes of the model, summed over its targets.",
    "global_step": "Number of completed optimizer steps.",
    "max_steps": "Number of planned optimizer steps.",
    "train_loss": "Training loss in the last logged step.",
    "eval_loss": "Mean loss per token on the held-out rows in the last evaluation.",
    "learning_rate": "Learning rate in the last logged step.",
    "grad_norm": "Gradient norm in the last logged step, before clipping.",
    "tokens_per_second": "Trained tokens per second since the previous logged step.",
    "epoch": "Number of passes over the training rows (epochs) so far.",
    "eta_seconds": "Estimated time in seconds until this stage completes.",
    "last_checkpoint_step": "Step of the newest published checkpoint.",
    "gpu_seconds": "Total GPU-seconds of the training, summed over all attempts.",
    "step_seconds": "Duration of the last optimizer step in seconds, without waiting for rows.",
    "data_wait_seconds": (
        "Total time in seconds that this process spent waiting for rows during training."
    ),
    "gpu_memory_peak_bytes": "Largest amount of allocated GPU memory of this process, in bytes.",
}
COUNTERS = {"gpu_seconds", "data_wait_seconds"}
PHASE = (
    'The label phase is "saving" while the adapter is saved, and "reference" while the '
    "log-probabilities for verification are recorded. Before the end of the last training step, "
    "the metric is absent. The value is always 1."
)
RETRIES = "Total number of restarts of the training, summed over all attempts, by cause."
CHECKPOINT_AGE = "Time in seconds since this process published its newest checkpoint."


class Progress(Collector):
    """Metrics of one command. ``set`` may be called from any thread."""

    def __init__(self, stage: str) -> None:
        """Start with the name of the stage and no values."""
        self.stage = stage
        self._values: dict[str, float] = {}
        self._started = time.monotonic()
        self._ratio_at_start = 0.0
        self._retries: dict[str, int] = {}
        self._checkpoint_at: float | None = None
        self._phase: str | None = None
        self._card: str | None = None
        self.history: loss_history.Series = {}
        """Series of the training, which its thread extends."""

    def enter(self, phase: Literal["saving", "reference"]) -> None:
        """Record that the steps are done and that a named part of the stage begins."""
        self._phase = phase

    def runs_on(self, card: str | None) -> None:
        """Record the GPU, as the node label nvidia.com/gpu.product names it; None for a CPU."""
        self._card = card

    def retried(self, counts: Mapping[str, int]) -> None:
        """Record how often the training was restarted, by cause."""
        self._retries = dict(counts)

    def checkpoint_published(self, step: int) -> None:
        """Record that the checkpoint of ``step`` was published now."""
        self.set(last_checkpoint_step=step)
        self._checkpoint_at = time.monotonic()

    def set(self, **values: float | None) -> None:
        """Record values by their name in ``HELP``; None keeps the current value."""
        for name, value in values.items():
            if name not in HELP:
                raise KeyError(name)
            if value is not None:
                self._values[name] = float(value)

    def get(self, name: str) -> float | None:
        """Return a value, or None if it is unknown."""
        return self._values.get(name)

    def start_from(self, ratio: float) -> None:
        """Set the share that was done before this attempt; the ETA excludes it."""
        self._started = time.monotonic()
        self._ratio_at_start = ratio

    def fetching(self, left: int, size: int) -> None:
        """Record that ``left`` of ``size`` bytes remain; earlier attempts downloaded the others."""
        self.start_from(1 - left / size if size else 0.0)

    def ratio(self, ratio: float) -> None:
        """Record the share that is done, and the ETA at the pace of this attempt."""
        ratio = min(1.0, max(0.0, ratio))
        done = ratio - self._ratio_at_start
        elapsed = time.monotonic() - self._started
        self.set(
            progress_ratio=ratio, eta_seconds=elapsed * (1 - ratio) / done if done > 0 else None
        )

    def transferred(self, count: int, size: int) -> None:
        """Record how many of the ``size`` bytes are downloaded."""
        count = min(count, size)
        self.set(download_bytes=count, download_size_bytes=size)
        self.ratio(count / size if size else 1.0)

    def uploaded(self, count: int, size: int) -> None:
        """Record how many of the ``size`` bytes the targets hold; the ratio is separate."""
        self.set(upload_bytes=min(count, size), upload_size_bytes=size)

    def collect(self) -> Iterator[Metric]:
        """Yield the known values. prometheus_client calls this on each scrape."""
        info = GaugeMetricFamily(
            "finetune_stage_info",
            'The value is always 1. The label "stage" contains the stage that this process runs.',
            labels=["stage"],
        )
        info.add_metric([self.stage], 1.0)
        yield info
        # Pod IPs are reused: the UID lets the scraper check which pod it reached.
        if uid := os.environ.get(POD_UID_VARIABLE):
            pod = GaugeMetricFamily(
                "finetune_pod_info",
                'The value is always 1. The label "uid" contains the UID of the pod.',
                labels=["uid"],
            )
            pod.add_metric([uid], 1.0)
            yield pod
        if self._phase is not None:
            part = GaugeMetricFamily("finetune_phase_info", PHASE, labels=["phase"])
            part.add_metric([self._phase], 1.0)
            yield part
        if self._card:
            device = GaugeMetricFamily(
                "finetune_device_info",
                'The value is always 1. The label "card" contains the GPU model in use.',
                labels=["card"],
            )
            device.add_metric([self._card], 1.0)
            yield device
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
        """Serve metrics and loss history on port 9400 or on FINETUNE_METRICS_PORT ("off": no)."""
        port = os.environ.get(PORT_VARIABLE, str(TRAINER_METRICS))
        if port == "off":
            return
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            server, _ = start_http_server(int(port), registry=registry)
        except OSError as error:
            log(f"no metrics are available: cannot listen on port {port} ({error})")
            return
        metrics = server.get_app()
        assert metrics is not None, "start_http_server sets an application"
        server.set_app(self._with_history(metrics))

    def _with_history(self, metrics: Callable[..., Iterable[bytes]]) -> Any:
        """Return a WSGI application that also serves the loss history, at its own path."""

        def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if environ.get("PATH_INFO") != loss_history.PATH:
                return metrics(environ, start_response)
            start_response("200 OK", [("Content-Type", "application/json")])
            return [loss_history.text(loss_history.served(self.history)).encode()]

        return answer
