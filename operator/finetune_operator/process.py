"""The process: wires the parts together and watches over them.

Whatever part ends ends the process: with 0 after SIGTERM or SIGINT, with 1 and a reason in the log
in any other case, so that the kubelet starts it anew.
"""

import argparse
import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import kopf
import yaml
from pydantic import ValidationError

from finetune_api.resolve import InvalidSpec, effective_defaults
from finetune_operator import logs, plan, server, wakeups
from finetune_operator.apply import Applier
from finetune_operator.config import OperatorConfig
from finetune_operator.controller import Controller
from finetune_operator.errors import OperatorError, Transient
from finetune_operator.events import Recorder
from finetune_operator.kube import Kube
from finetune_operator.leading import lead, until_first_ends
from finetune_operator.lease import Lease
from finetune_operator.resync import Resync
from finetune_operator.scrape import Scraper

logger = logging.getLogger("finetune_operator")


class ConfigurationError(Exception):
    """The configuration cannot be used; the message says what to change."""


def configuration(path: Path) -> OperatorConfig:
    """Read and check the configuration. Raises ConfigurationError."""
    try:
        config = OperatorConfig.load(path)
        effective_defaults(config.defaults)
    except OSError as error:
        raise ConfigurationError(f"--config {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--config {path}: not YAML: {error}") from error
    except InvalidSpec as error:
        raise ConfigurationError(f"--config {path}: {error}") from error
    except ValidationError as error:
        findings = "; ".join(
            f"{'.'.join(map(str, finding['loc'])) or 'the file'}: {finding['msg']}"
            for finding in error.errors()
        )
        raise ConfigurationError(f"--config {path}: {findings}") from error
    if config.log_level.upper() not in logging.getLevelNamesMapping():
        raise ConfigurationError(
            f"--config {path}: logLevel: {config.log_level!r} is not debug, info, warning or error"
        )
    return config


async def run(config: OperatorConfig, *, port: int) -> None:
    """Run the operator until a signal ends it. Raises what ended it otherwise."""
    async with AsyncExitStack() as stack:
        kube = await Kube.connect()
        stack.push_async_callback(kube.close)
        scraper = Scraper()
        stack.push_async_callback(scraper.close)
        identity = os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}"
        lease = Lease(
            kube=kube,
            namespace=config.operator_namespace,
            name=config.lease_name,
            identity=identity,
        )
        kube.fence = lease.remaining
        recorder = Recorder(kube, instance=identity)
        controller = Controller(
            kube=kube,
            applier=Applier(kube=kube, recorder=recorder),
            config=config,
            planner=plan,
            scrape=scraper,
        )
        resync = Resync(
            kube=kube,
            namespaces=tuple(config.namespaces),
            known=controller.seen,
            wake=controller.wake,
        )
        health = server.Health(controller)
        bound = await stack.enter_async_context(server.serving(health, port))
        await _until_served(kube)
        logger.info("started", extra={"port": bound, "identity": identity})
        leading = asyncio.create_task(lead(lease, controller, resync), name="leading")

        async def give_back() -> None:
            leading.cancel()
            await asyncio.wait([leading])

        await until_first_ends(
            leading,
            asyncio.create_task(_watch(config, controller, give_back, health), name="watches"),
        )
        logger.info("stopped")


async def _until_served(kube: Kube) -> None:
    """Wait for the API server, however long it is away. Raises Terminal without the CRD."""
    while True:
        try:
            return await kube.require_served()
        except Transient as error:
            logger.warning("waiting for the API server: %s", error)
            await asyncio.sleep(2.0)


async def _watch(
    config: OperatorConfig,
    controller: Controller,
    stop: Callable[[], Awaitable[None]],
    health: server.Health,
) -> None:
    """Watch until a signal comes; ``stop`` ends all other work before kopf itself ends."""
    watching = asyncio.Event()
    ready = asyncio.create_task(_set_when(watching, lambda: setattr(health, "ready", True)))
    try:
        await kopf.operator(
            registry=wakeups.registry(controller.wake, stop),
            settings=wakeups.settings(),
            standalone=True,
            clusterwide=not config.namespaces,
            namespaces=config.namespaces,
            ready_flag=watching,
        )
    finally:
        health.ready = False
        ready.cancel()


async def _set_when(flag: asyncio.Event, then: Callable[[], None]) -> None:
    await flag.wait()
    then()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="finetune-operator", description="Runs FineTuneJobs.")
    parser.add_argument("--config", type=Path, required=True, help="the operator's YAML file")
    parser.add_argument("--port", type=int, default=server.PORT, help="of metrics and probes")
    options = parser.parse_args(arguments)
    logs.configure("info")
    try:
        config = configuration(options.config)
        logs.configure(config.log_level)
        asyncio.run(run(config, port=options.port))
    except (ConfigurationError, OperatorError) as error:
        logger.error("%s", error)
        return 1
    except Exception:
        logger.exception("ended by a defect")
        return 1
    return 0
