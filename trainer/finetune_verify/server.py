"""HTTP server for the kubelet (``/readyz``) and the operator (``/metrics``)."""

import os

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from finetune_api.contracts.ports import POD_UID_VARIABLE
from finetune_verify.requests import RequestClock
from finetune_verify.verification import Verdict

OUTCOMES = ("Verified", "Inconclusive", "Skipped")


class State:
    """State of the verification; readiness and metrics follow it."""

    def __init__(self) -> None:
        self.verdict: Verdict | None = None
        self.waiting_for = "the digests of the files"
        self.registry = CollectorRegistry()
        gauge = self._gauge
        self._distance = gauge(
            "distance",
            "Root mean square distance between served and reference log-probabilities, in nats.",
        )
        self._tolerance = gauge(
            "tolerance", "Maximum distance that is attributed to rounding errors, in nats."
        )
        self._smallest_fault = gauge(
            "smallest_fault",
            "Smallest fault that the comparison would detect, as a share of the effect of tuning; "
            "NaN if the comparison would not detect the base model.",
        )
        self._seconds = gauge(
            "seconds", "Duration in seconds of the comparison, which starts when vLLM is healthy."
        )
        self._answering = gauge(
            "server_seconds",
            "Part of finetune_verify_seconds in which the verifier waited for responses of vLLM.",
        )
        self._read = gauge(
            "read_bytes",
            "Number of bytes that the verifier has read to compute the digests of the files.",
        )
        self._size = gauge("size_bytes", "Total size in bytes of the files to verify.")
        self.requests = RequestClock()
        gauge(
            "requests",
            "Number of requests of clients that vLLM has completed since the verification; NaN if "
            "vLLM does not count them.",
        ).set_function(lambda: self.requests.count)
        gauge(
            "idle_seconds",
            "Time in seconds since vLLM last had a request of a client, or since the verification; "
            "NaN if vLLM does not count requests.",
        ).set_function(lambda: self.requests.idle_seconds)
        self._outcome = Gauge(
            "finetune_verify_outcome",
            "Outcome of the verification: 1 for the current outcome, 0 for every other outcome.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in OUTCOMES:
            self._outcome.labels(outcome).set(0)
        if uid := os.environ.get(POD_UID_VARIABLE):
            Gauge(
                "finetune_pod_info",
                "The label uid contains the UID of the pod of the verifier. The value is always 1.",
                ["uid"],
                registry=self.registry,
            ).labels(uid).set(1)
        # NaN until the first comparison: a 0 would read as a measurement.
        measured = (self._distance, self._tolerance, self._smallest_fault)
        for metric in (*measured, self._seconds, self._answering, self._read, self._size):
            metric.set(float("nan"))

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"finetune_verify_{name}", text, registry=self.registry)

    def agreed(self, verdict: Verdict, seconds: float, *, answering: float) -> None:
        """Become ready; vLLM took ``answering`` of the ``seconds`` of the comparison to answer."""
        self.verdict = verdict
        self.requests.start()
        for metric, value in (
            (self._distance, verdict.distance),
            (self._tolerance, verdict.tolerance),
            (self._smallest_fault, verdict.smallest_fault),
        ):
            metric.set(float("nan") if value is None else value)
        self._seconds.set(seconds)
        self._answering.set(answering)
        for outcome in OUTCOMES:
            self._outcome.labels(outcome).set(outcome == verdict.outcome)

    def begin(self, size: int) -> None:
        """Record that the digests of ``size`` bytes must be computed."""
        self._read.set(0)
        self._size.set(size)

    def read(self, count: int) -> None:
        """Record that the digests of ``count`` more bytes are computed. Any thread may call it."""
        self._read.inc(count)

    def wait_for(self, what: str) -> None:
        """Become not ready; ``/readyz`` answers what it waits for."""
        self.verdict = None
        self.requests.stop()
        self.waiting_for = what


def application(state: State) -> web.Application:
    """Return the application with its two routes."""

    async def readyz(_: web.Request) -> web.Response:
        if state.verdict is None:
            return web.Response(status=503, text=f"waiting for {state.waiting_for}\n")
        return web.Response(text=f"{state.verdict.outcome}: {state.verdict.message}\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(state.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app = web.Application()
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app
