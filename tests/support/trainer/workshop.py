"""Run trainer commands as processes that are forked from a server with imported libraries.

Each command is a real process with its own exit code and environment, and can be killed. The
imports of torch, transformers and TRL take seconds, and happen only once in the server.
"""

import copy
import json
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel
from pydantic_core import to_json

CUDA_SHAPED = "unsloth as on a GPU"
"""The server whose libraries Unsloth has replaced as it does on a GPU."""
INTERPRETED = "trl with Triton's interpreter"
"""The server in which Triton's kernels run on the CPU."""
PRELOAD = {
    # Importing Unsloth changes other libraries, so each backend has a separate server.
    "trl": ["finetune_trainer.training.backends.trl"],
    "unsloth": ["finetune_trainer.training.backends.unsloth"],
    INTERPRETED: ["finetune_trainer.training.backends.trl"],
    CUDA_SHAPED: ["tests.support.trainer.cuda_shape"],
}
COMMON = [
    "finetune_trainer.__main__",
    "finetune_trainer.preparation.prepare",
    "finetune_trainer.training.train",
    "finetune_trainer.merging.merge",
    "finetune_trainer.evaluation.scoring",
    "finetune_trainer.sources.https",
    "finetune_trainer.sources.s3",
    "finetune_cli.offline.run",
    # Libraries that a command imports at their first use.
    "s3fs",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    # The last one.
    "tests.support.trainer.frozen",
]
DEADLINE = 300.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The outcome of a command."""

    code: int
    result: dict[str, Any]
    log: str

    @property
    def message(self) -> str:
        return str(self.result.get("message"))


@dataclass(frozen=True, kw_only=True)
class Running:
    """A running command."""

    process: ForkServerProcess
    folder: Path

    def wait(self) -> Ended:
        self.process.join(DEADLINE)
        code = self.process.exitcode
        log = (self.folder / "log").read_text()
        assert code is not None, f"still running after {DEADLINE} s:\n{log}"
        message = self.folder / "result"
        said = message.read_text() if message.exists() else ""
        result = json.loads(said) if said else {}
        return Ended(code=code, result=result, log=log)

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for an effect of the command; fail if the command ends before."""
        until = time.monotonic() + DEADLINE
        while not happened():
            alive = self.process.is_alive() or happened()
            assert alive, f"it ended first:\n{(self.folder / 'log').read_text()}"
            assert time.monotonic() < until, "it never happened"
            time.sleep(0.005)


class Workshop:
    """One job with one volume."""

    def __init__(
        self, servers: dict[str, "Server"], folder: Path, work: Path, job: dict[str, Any]
    ) -> None:
        self.servers = servers
        self.fault: Callable[[], None] | None = None
        self.folder = folder
        self.work = work
        self.work.mkdir(parents=True, exist_ok=True)
        self.write(job)

    def write(self, job: dict[str, Any]) -> None:
        self.job = job
        (self.folder / "job.json").write_text(json.dumps(job))

    def with_fault(self, fault: Callable[[], None]) -> "Workshop":
        """Return the same job with the same volume; its processes call ``fault`` first."""
        other = copy.copy(self)
        other.fault = fault
        return other

    def start(
        self,
        stage: str,
        *,
        target: tuple[Any, ...] = (),
        **settings: Any,
    ) -> Running:
        """Start a stage.

        target: a function to run instead, with its first arguments. settings: fields of its request
        in lower case, and environment variables in upper case.
        """
        (self.folder / "result").unlink(missing_ok=True)
        fields = {name: value for name, value in settings.items() if name.islower()}
        argument = request(stage, self.folder / "job.json", self.work, **fields)
        environment = {
            "FINETUNE_TERMINATION_LOG": str(self.folder / "result"),
            "FINETUNE_METRICS_PORT": "off",
        } | {name: value for name, value in settings.items() if not name.islower()}
        log = self.folder / "log"
        log.touch()
        usual = (command,) if self.fault is None else (broken_command, self.fault)
        function, *first = target or usual
        server = self.servers[self.backend]
        process = server.start(function, *first, [argument], environment, str(log))
        return Running(process=process, folder=self.folder)

    def run(self, stage: str, **settings: Any) -> Ended:
        return self.start(stage, **settings).wait()

    def succeed(self, stage: str, **settings: Any) -> Ended:
        ended = self.run(stage, **settings)
        assert ended.code == 0, f"{stage}: {ended.result}\n{ended.log}"
        return ended

    def prepare_and_train(self) -> Ended:
        self.succeed("prepare")
        return self.succeed("train")

    @property
    def backend(self) -> str:
        """The backend of the processes: the published backend, otherwise that of the recipe."""
        chosen = self.work / "dataset" / "backend.json"
        if chosen.exists():
            return str(json.loads(chosen.read_text())["name"])
        written = self.job["training"]["advanced"]["backend"]
        return "trl" if written == "auto" else str(written)

    def published(self) -> list[str]:
        """The folders with a manifest."""
        return sorted(path.parent.name for path in self.work.glob("*/manifest.json"))


def request(stage: str, config: Path, work: Path, **fields: Any) -> str:
    """Return the request of a stage, which is not validated, as the argument of the trainer."""
    named = {to_camel(name): value for name, value in fields.items()}
    return to_json(
        {"stage": stage, "config": config, "work": work, **named}, by_alias=True
    ).decode()


class Server:
    """A process that has imported the libraries of one backend; commands are forked from it."""

    def __init__(self, backend: str) -> None:
        # multiprocessing supports one fork server per process; these tests need two.
        self._server = multiprocessing.forkserver.ForkServer()
        self._server.set_forkserver_preload([*PRELOAD[backend], *COMMON])

    def start(self, target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
        process = multiprocessing.get_context("forkserver").Process(target=target, args=arguments)
        module = multiprocessing.forkserver
        usual = module.connect_to_new_process
        module.connect_to_new_process = self._server.connect_to_new_process
        try:
            process.start()
        finally:
            module.connect_to_new_process = usual
        return process

    def stop(self) -> None:
        """End the server, and wait for it, so that its CPU time counts as that of this process."""
        self._server._stop()  # type: ignore[attr-defined]


@contextmanager
def server(backend: str, **environment: str) -> Iterator[Server]:
    """Start the server of a backend with a separate environment."""
    before = dict(os.environ)
    # In Python 3.11, the fork server does not get the path of this process for its preloads.
    os.environ.update(environment | {"PYTHONPATH": os.pathsep.join(sys.path)})
    found = Server(backend)
    try:
        first = found.start(_nothing)
        first.join()
        assert first.exitcode == 0
        yield found
    finally:
        found.stop()
        os.environ.clear()
        os.environ.update(before)


def _nothing() -> None:
    """Do nothing; running this function starts the server and its imports."""


def broken_command(
    fault: Callable[[], None], arguments: list[str], environment: dict[str, str], log: str
) -> None:
    """Inject a fault into this process, then run a command in it."""
    fault()
    command(arguments, environment, log)


def command(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """Run a command in this process, and write its output to a file."""
    _write_output_to(log)
    sys.exit(command_code(arguments, environment))


def user_command(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """Run a command of ``ftj`` in this process, and write its output to a file."""
    _write_output_to(log)
    os.environ.update(environment)
    from finetune_cli.__main__ import main

    sys.exit(main(arguments))


def _write_output_to(log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)


def command_code(arguments: list[str], environment: dict[str, str]) -> int:
    """Run a command in this process; return its exit code."""
    os.environ.update(environment)
    from finetune_trainer.__main__ import main

    return main(arguments)
