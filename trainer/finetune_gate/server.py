"""The two ports of the gate: one for callers, one for the kubelet and the operator.

``/engine/health`` is the probe of the vLLM container, which has no port of its own.
"""

import socket
from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_api.contracts.endpoint import LONGEST, EndpointStatus
from finetune_gate.engine import Engine
from finetune_gate.requests.proxy import Proxy
from finetune_gate.rollout import Rollout
from finetune_gate.wanted import Wanted

SEND_BYTES = 1 << 15
"""Bytes that the kernel buffers for a caller; it doubles the value."""
IDLE_SECONDS = 620.0
"""Time after which a connection without a request is closed: each one takes memory. A proxy that
keeps its own for longer may send a request while this one closes, and answers 502. Google's load
balancers keep theirs for 600 seconds, which cannot be changed."""


class NameCollector(Collector):
    """Outcome and distance of each name that answers, from its status."""

    def __init__(self, status: Callable[[], EndpointStatus]) -> None:
        self._status = status

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the series of now."""
        names = self._status().names
        outcome = GaugeMetricFamily(
            "finetune_gate_outcome",
            "Outcome of the proof with which a model answers. The value is always 1.",
            labels=["model", "outcome"],
        )
        distance = GaugeMetricFamily(
            "finetune_gate_distance",
            "Root mean square distance between served and reference log-probabilities, in nats.",
            labels=["model"],
        )
        tolerance = GaugeMetricFamily(
            "finetune_gate_tolerance",
            "Maximum distance that is attributed to rounding errors, in nats.",
            labels=["model"],
        )
        for model in names:
            if model.outcome is None or model.distance is None or model.tolerance is None:
                continue
            outcome.add_metric([model.name, model.outcome], 1)
            distance.add_metric([model.name], model.distance)
            tolerance.add_metric([model.name], model.tolerance)
        return [outcome, distance, tolerance]


def listening(port: int) -> socket.socket:
    """Return the socket on which callers connect, over IPv4 and, where there is one, IPv6."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    listener = socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=1024)
    # Connections inherit it. By default, the kernel buffers megabytes for a slow reader.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
    return listener


def for_callers(proxy: Proxy) -> web.Application:
    """Return the application for callers; every other path answers 404."""
    app = web.Application()
    app.router.add_get("/v1/models", proxy.models)
    app.router.add_post("/v1/chat/completions", proxy.chat)
    app.router.add_post("/v1/completions", proxy.completions)
    return app


def for_operator(
    engine: Engine,
    rollout: Rollout,
    wanted: Wanted,
    now: Callable[[], EndpointStatus],
    registry: CollectorRegistry,
) -> web.Application:
    """Return the application for kubelet and operator. now: returns the state of all names."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def engine_health(_: web.Request) -> web.Response:
        is_healthy = await engine.healthy()
        return web.Response(status=200 if is_healthy else 503)

    async def readyz(_: web.Request) -> web.Response:
        status = 200 if rollout.is_ready else 503
        lines = [f"{model.name}: {model.state}" for model in now().names]
        return web.Response(status=status, text="".join(f"{line}\n" for line in lines))

    async def status(_: web.Request) -> web.Response:
        text = now().model_dump_json(by_alias=True)
        return web.Response(text=text, content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def put_wanted(request: web.Request) -> web.Response:
        # Anyone may deliver a set: its signature decides.
        if not wanted.offer(await request.read()):
            return web.Response(status=403, text=f"{wanted.refused}\n")
        rollout.wanted_changed()
        return web.Response(status=204)

    app = web.Application(client_max_size=LONGEST)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/engine/health", engine_health)
    app.router.add_get("/status", status)
    app.router.add_get("/metrics", metrics)
    app.router.add_put("/wanted", put_wanted)
    return app
