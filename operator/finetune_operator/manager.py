"""The manager: connects the parts of the operator and supervises them.

If any part ends, the process ends: with 0 after SIGTERM or SIGINT, else with 1 and the cause in the
log, so that the kubelet restarts it.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finetune_api.defaulting import InvalidSpec, effective_defaults
from finetune_api.layering import without_nulls
from finetune_api.policy.check import violations_of_defaults
from finetune_operator import health
from finetune_operator.config import OperatorConfig
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.controller import Controller
from finetune_operator.controller.reconciler import Reconciler
from finetune_operator.controller.resync import Resync
from finetune_operator.controller.watch import deliver, run_watch
from finetune_operator.controller.workqueue import WorkQueue
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import OperatorError, Terminal, Transient
from finetune_operator.kube.recorder import Recorder
from finetune_operator.leader_election import LeaderElector
from finetune_operator.metrics_server import server as metrics_server
from finetune_operator.reconcile import plan
from finetune_operator.revisions.documents import MOST_FROZEN_BYTES, frozen_part
from finetune_operator.snapshot.reader import Reader
from finetune_operator.snapshot.reflector import Reflector, reflectors
from finetune_operator.snapshot.scraper import NAMESPACE_WORKERS, Scraper
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.telemetry import logs

RETRY_SECONDS = 2.0
"""Between two checks whether the API server serves FineTuneJobs."""

logger = logging.getLogger("finetune_operator")


class ConfigurationError(Exception):
    """The configuration is invalid; the message names file and field."""


def load_config(path: Path) -> OperatorConfig:
    """Return the validated configuration. Raises ConfigurationError."""
    try:
        config = OperatorConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        defaults = effective_defaults(config.defaults)
    except OSError as error:
        raise ConfigurationError(f"--config {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--config {path}: invalid YAML: {error}") from error
    except InvalidSpec as error:
        raise ConfigurationError(f"--config {path}: {error}") from error
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'the file'}: {detail['msg']}"
            for detail in error.errors()
        )
        raise ConfigurationError(f"--config {path}: {details}") from error
    if refused := violations_of_defaults(without_nulls(config.defaults), config.policy):
        raise ConfigurationError(
            f"--config {path}: values in defaults violate the limits in policy: {' '.join(refused)}"
        )
    size = len(frozen_part(config.model_copy(update={"defaults": defaults})).encode())
    if size > MOST_FROZEN_BYTES:
        raise ConfigurationError(
            f"--config {path}: images, serving, hub and defaults have {size} bytes together, but "
            f"at most {MOST_FROZEN_BYTES} are allowed: the operator copies these settings into the "
            "status of each job. Set long values, such as dataset.chatTemplate, in the jobs "
            "instead of in defaults."
        )
    hub, egress = config.hub, config.egress
    closed = hub.port not in egress.ports and not egress.hub_cidrs
    if hub.is_outside_name and closed and not config.proxy.serves(hub):
        raise ConfigurationError(
            f"--config {path}: hub.endpoint: port {hub.port} of {hub.host} is not in egress.ports, "
            "so prepare pods cannot reach the hub. Set egress.hubCidrs to the address ranges of "
            f"{hub.host}. The operator then allows connections to this port only if the address is "
            "in these ranges."
        )
    if config.proxy.is_outside_name and not config.proxy.cidrs:
        raise ConfigurationError(
            f"--config {path}: proxy.url: NetworkPolicies cannot select the host name "
            f"{config.proxy.host}. Set proxy.cidrs to the address ranges of the proxy."
        )
    if config.log_level.upper() not in logging.getLevelNamesMapping():
        raise ConfigurationError(
            f"--config {path}: logLevel: {config.log_level!r} is invalid; use debug, info, warning "
            "or error"
        )
    return config


async def run(config: OperatorConfig, *, metrics_port: int, probe_port: int) -> None:
    """Run the operator until a signal. Raises the error that ended a part."""
    async with AsyncExitStack() as stack:
        kube = await Kube.connect()
        stack.push_async_callback(kube.close)
        scraper = Scraper(WorkQueue("scrapes", namespace_limit=NAMESPACE_WORKERS))
        identity = os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}"
        elector = LeaderElector(
            kube=kube,
            namespace=config.operator_namespace,
            name=config.lease_name,
            identity=identity,
        )
        kube.transport.fence = elector.remaining
        store = ObjectStore()
        reconciler = Reconciler(
            reader=Reader(kube=kube, store=store, metrics=scraper),
            executor=PlanExecutor(kube=kube, recorder=Recorder(kube, instance=identity)),
            config=config,
            planner=plan,
        )
        controller = Controller(reconciler=reconciler)
        resync = Resync(
            kube=kube,
            store=store,
            namespaces=tuple(config.watch_namespaces),
            recheck=controller.recheck,
        )
        children = reflectors(kube, store, config.watch_namespaces, controller.notify)
        probes = health.Health(controller, children)
        await stack.enter_async_context(health.serving(probes, probe_port))
        bound = await stack.enter_async_context(
            metrics_server.serving(config.metrics, kube, metrics_port)
        )
        await _wait_for_crd(kube, required=True)
        logger.info("started", extra={"port": bound, "identity": identity})
        await run_until_first_exit(
            lead(elector, controller, resync, scraper, children),
            *(each.run() for each in children),
            run_watch(
                deliver(store, controller.notify, resync.request),
                config.watch_namespaces,
                wait_for_crd=lambda: _wait_for_crd(kube, required=False),
                set_ready=lambda ready: setattr(probes, "watching", ready),
            ),
            _wait_for_signal(),
        )
        logger.info("stopped")


async def _wait_for_crd(kube: Kube, *, required: bool) -> None:
    """Wait until the API server is available and serves FineTuneJobs.

    required: whether a missing CRD is an error. Raises Terminal in this case.
    """
    while True:
        try:
            return await kube.require_crd()
        except Transient as error:
            logger.warning("waiting for the API server: %s", _explained(error, kube))
        except Terminal as error:
            if required:
                raise
            logger.warning("waiting for the CRD: %s", error)
        await asyncio.sleep(RETRY_SECONDS)


def _explained(error: Transient, kube: Kube) -> str:
    """Return an error, with the chart value that a NetworkPolicy of the operator may need."""
    if error.__cause__ is None:
        return str(error)
    return (
        f"{error}. If the NetworkPolicy of the operator blocks the connection, extend the chart "
        "value networkPolicy.apiServerPorts with the port on which the API server listens. This "
        f"port can differ from the port of the Service of the API server ({kube.server})"
    )


async def _wait_for_signal() -> None:
    received = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, received.set)
    await received.wait()


async def lead(
    elector: LeaderElector,
    controller: Controller,
    resync: Resync,
    scraper: Scraper,
    children: Sequence[Reflector],
) -> None:
    """Run the controller whenever this replica is the leader; at the end release the Lease.

    A replica becomes the leader only after it has listed all kinds. Raises the error that ended a
    worker.
    """
    try:
        for each in children:
            await each.synced.wait()
        while True:
            await elector.acquire()
            scrapes = scraper.run(changed=controller.wake)
            await run_until_first_exit(controller.run(), resync.run(), scrapes, elector.hold())
    finally:
        await controller.stop()
        await elector.release()


async def run_until_first_exit(*parts: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
    """Wait for the first part to end, cancel the others, and raise an error that ended any."""
    tasks = [
        part if isinstance(part, asyncio.Task) else asyncio.create_task(part) for part in parts
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="finetune-operator", description="Operator for FineTuneJobs."
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="path of the YAML configuration file"
    )
    parser.add_argument(
        "--metrics-port", type=int, default=metrics_server.PORT, help="port of /metrics"
    )
    parser.add_argument(
        "--probe-port", type=int, default=health.PORT, help="port of /healthz and /readyz"
    )
    options = parser.parse_args(arguments)
    logs.configure("info")
    try:
        config = load_config(options.config)
        logs.configure(config.log_level)
        asyncio.run(run(config, metrics_port=options.metrics_port, probe_port=options.probe_port))
    except (ConfigurationError, OperatorError) as error:
        logger.error("%s", error)
        return 1
    except Exception:
        logger.exception("ended by an unexpected error")
        return 1
    return 0
