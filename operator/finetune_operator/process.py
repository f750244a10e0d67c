"""The process: wires the parts together and watches over them.

Whatever part ends ends the process: with 0 after SIGTERM or SIGINT, with 1 and a reason in the log
in any other case, so that the kubelet starts it anew.
"""

import argparse
import asyncio
import logging
import os
from collections.abc import Callable
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
from finetune_operator.errors import OperatorError
from finetune_operator.events import Recorder
from finetune_operator.kube import Kube
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
        await kube.require_served()
        scraper = Scraper()
        stack.push_async_callback(scraper.close)
        recorder = Recorder(kube, instance=os.environ.get("POD_NAME", ""))
        controller = Controller(
            kube=kube,
            applier=Applier(kube=kube, recorder=recorder),
            config=config,
            planner=plan,
            scrape=scraper,
        )
        health = server.Health(controller)
        bound = await stack.enter_async_context(server.serving(health, port))
        logger.info("started", extra={"port": bound})
        await _until_first_ends(
            asyncio.create_task(controller.run(), name="controller"),
            asyncio.create_task(_watch(controller, health), name="watches"),
        )
        logger.info("stopped")


async def _watch(controller: Controller, health: server.Health) -> None:
    """Watch until a signal comes. The first list is our own: kopf does not say when its own end."""
    for job in await controller.kube.list("FineTuneJob"):
        controller.queue.add((job["metadata"]["namespace"], job["metadata"]["name"]))
    watching = asyncio.Event()
    ready = asyncio.create_task(_set_when(watching, lambda: setattr(health, "ready", True)))
    try:
        await kopf.operator(
            registry=wakeups.registry(controller.queue.add, controller.stop),
            settings=wakeups.settings(),
            standalone=True,
            clusterwide=True,
            ready_flag=watching,
        )
    finally:
        health.ready = False
        ready.cancel()


async def _set_when(flag: asyncio.Event, then: Callable[[], None]) -> None:
    await flag.wait()
    then()


async def _until_first_ends(*tasks: asyncio.Task[None]) -> None:
    """Wait for the first task to end, end the others, raise what any of them raised."""
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
