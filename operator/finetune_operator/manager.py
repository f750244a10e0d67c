"""The process: wires the parts together and watches over them.

Whatever part ends ends the process: with 0 after SIGTERM or SIGINT, with 1 and a reason in the log
in any other case, so that the kubelet starts it anew.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finetune_api.defaulting import InvalidSpec, effective_defaults
from finetune_operator import health
from finetune_operator.config import OperatorConfig
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.controller import Controller
from finetune_operator.controller.resync import Resync
from finetune_operator.controller.watch import keep_watching
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import OperatorError, Terminal, Transient
from finetune_operator.kube.recorder import Recorder
from finetune_operator.leader_election import LeaderElector
from finetune_operator.reconcile import plan
from finetune_operator.snapshot.scraper import Scraper
from finetune_operator.telemetry import logs

logger = logging.getLogger("finetune_operator")


class ConfigurationError(Exception):
    """The configuration cannot be used; the message says what to change."""


def configuration(path: Path) -> OperatorConfig:
    """Read and check the configuration. Raises ConfigurationError."""
    try:
        config = OperatorConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
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
        lease = LeaderElector(
            kube=kube,
            namespace=config.operator_namespace,
            name=config.lease_name,
            identity=identity,
        )
        kube.transport.fence = lease.remaining
        recorder = Recorder(kube, instance=identity)
        controller = Controller(
            kube=kube,
            applier=PlanExecutor(kube=kube, recorder=recorder),
            config=config,
            planner=plan,
            scrape=scraper,
        )
        resync = Resync(
            kube=kube,
            namespaces=tuple(config.watch_namespaces),
            known=controller.snapshot,
            wake=controller.wake,
        )
        probes = health.Health(controller)
        bound = await stack.enter_async_context(health.serving(probes, port))
        await _until_served(kube, ending=True)
        logger.info("started", extra={"port": bound, "identity": identity})
        await until_first_ends(
            lead(lease, controller, resync),
            keep_watching(
                controller.told,
                config.watch_namespaces,
                served=lambda: _until_served(kube, ending=False),
                ready=lambda running: setattr(probes, "ready", running),
            ),
            _until_told_to_end(),
        )
        logger.info("stopped")


async def _until_served(kube: Kube, *, ending: bool) -> None:
    """Wait for the API server, however long it is away.

    ending: whether a missing CRD is the end. Raises Terminal then.
    """
    while True:
        try:
            return await kube.require_served()
        except Transient as error:
            logger.warning("waiting for the API server: %s", error)
        except Terminal as error:
            if ending:
                raise
            logger.warning("waiting for the CRD: %s", error)
        await asyncio.sleep(2.0)


async def _until_told_to_end() -> None:
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="finetune-operator", description="Runs FineTuneJobs.")
    parser.add_argument("--config", type=Path, required=True, help="the operator's YAML file")
    parser.add_argument("--port", type=int, default=health.PORT, help="of metrics and probes")
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


async def lead(lease: LeaderElector, controller: Controller, resync: Resync) -> None:
    """Take turns until cancelled; then end the work and give the Lease back.

    Raises what a worker raised.
    """
    try:
        while True:
            await lease.acquire()
            await until_first_ends(controller.run(), resync.run(), lease.hold())
    finally:
        await controller.stop()
        await lease.release()


async def until_first_ends(*parts: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
    """Wait for the first part to end, end the others, raise what any of them raised."""
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
