"""Runs the trainer's commands as processes of their own, from a server that has torch loaded.

Each command is a real process (it can be killed, it has its own exit code and environment), but the
seconds that importing torch, transformers and TRL takes are paid once for all of them.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

PRELOAD = ["finetune_trainer.backends.trl", "finetune_trainer.merge", "finetune_trainer.__main__"]
DEADLINE = 120.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    result: dict[str, Any]
    log: str

    @property
    def message(self) -> str:
        return str(self.result.get("message"))


@dataclass(frozen=True, kw_only=True)
class Running:
    """A command under way."""

    process: ForkServerProcess
    folder: Path

    def wait(self) -> Ended:
        self.process.join(DEADLINE)
        code = self.process.exitcode
        log = (self.folder / "log").read_text()
        assert code is not None, f"still running after {DEADLINE} s:\n{log}"
        message = self.folder / "result"
        result = json.loads(message.read_text()) if message.exists() else {}
        return Ended(code=code, result=result, log=log)

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something that the command does; fail where it ends before that."""
        until = time.monotonic() + DEADLINE
        while not happened():
            alive = self.process.is_alive() or happened()
            assert alive, f"it ended first:\n{(self.folder / 'log').read_text()}"
            assert time.monotonic() < until, "it never happened"
            time.sleep(0.005)


class Workshop:
    """One job on one volume."""

    def __init__(
        self, context: ForkServerContext, folder: Path, work: Path, job: dict[str, Any]
    ) -> None:
        self.context = context
        self.folder = folder
        self.work = work
        self.work.mkdir(parents=True, exist_ok=True)
        self.write(job)

    def write(self, job: dict[str, Any]) -> None:
        self.job = job
        (self.folder / "job.json").write_text(json.dumps(job))

    def start(
        self,
        name: str,
        *options: str,
        target: tuple[Any, ...] = (),
        **environment: str,
    ) -> Running:
        """Start a command; ``target``: a function to run in its place, and its first arguments."""
        (self.folder / "result").unlink(missing_ok=True)
        arguments = [name, "--config", f"{self.folder}/job.json", "--work", str(self.work)]
        environment = {
            "FINETUNE_TERMINATION_LOG": str(self.folder / "result"),
            "FINETUNE_METRICS_PORT": "off",
        } | environment
        log = self.folder / "log"
        log.touch()
        function, *first = target or (command,)
        process = self.context.Process(
            target=function, args=(*first, [*arguments, *options], environment, str(log))
        )
        process.start()
        return Running(process=process, folder=self.folder)

    def run(self, command: str, *options: str, **environment: str) -> Ended:
        return self.start(command, *options, target=(), **environment).wait()

    def succeed(self, command: str, *options: str) -> Ended:
        ended = self.run(command, *options)
        assert ended.code == 0, f"{command}: {ended.result}\n{ended.log}"
        return ended

    def stage_and_train(self) -> Ended:
        self.succeed("stage")
        return self.succeed("train")

    def published(self) -> list[str]:
        """Folders that claim to be whole."""
        return sorted(path.parent.name for path in self.work.glob("*/manifest.json"))


@contextmanager
def server(**environment: str) -> Iterator[ForkServerContext]:
    """Start the server that commands are forked from, with its own environment."""
    before = dict(os.environ)
    # The server of Python 3.11 does not get this process's path for what it preloads.
    os.environ.update(environment | {"PYTHONPATH": os.pathsep.join(sys.path)})
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    try:
        first = context.Process(target=_nothing)
        first.start()
        first.join()
        assert first.exitcode == 0
        yield context
    finally:
        os.environ.clear()
        os.environ.update(before)


def _nothing() -> None:
    """Make the server start and import what it preloads."""


def command(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """Run a command in this process, with its output in a file."""
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from finetune_trainer.__main__ import main

    sys.exit(main(arguments))
